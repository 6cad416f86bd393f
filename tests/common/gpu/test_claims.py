from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.gpu import claims
from common.gpu.claims import Claim, OwnedBy, claim, machine_wide_folder

UUID = "GPU-00000000-0000-0000-0000-000000000001"
CLAIMANT = """
import sys
from pathlib import Path
from common.gpu.claims import claim
print(type(claimed := claim(sys.argv[1], "mainpc", Path(sys.argv[2]))).__name__, flush=True)
sys.stdin.read()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def claimant(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], subprocess.Popen[str]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))

    def run() -> subprocess.Popen[str]:
        process = start(sys.executable, "-c", CLAIMANT, UUID, str(tmp_path))
        assert process.stdout is not None
        assert process.stdout.readline() == "Claim\n"
        return process

    return run


def taken(claimed: Claim | OwnedBy) -> Claim:
    assert isinstance(claimed, Claim)
    return claimed


def test_two_processes_never_both_hold_a_card(claimant: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    first = claimant()
    refused = claim(UUID, "pc2", tmp_path)
    assert refused == OwnedBy("mainpc", first.pid)
    assert str(refused) == f"owned by mainpc (pid {first.pid})"


def test_a_killed_holders_card_is_free_again(claimant: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    first = claimant()
    first.kill()
    first.wait()
    taken(claim(UUID, "pc2", tmp_path)).release()


def test_one_process_cannot_claim_a_card_twice_until_it_gives_it_up(tmp_path: Path) -> None:
    held = taken(claim(UUID, "mainpc", tmp_path))
    assert claim(UUID, "pc2", tmp_path) == OwnedBy("mainpc", os.getpid())
    held.release()
    held.release()
    taken(claim(UUID, "pc2", tmp_path)).release()


def test_cards_are_claimed_one_by_one(tmp_path: Path) -> None:
    held = [taken(claim(f"GPU-{number}", "mainpc", tmp_path)) for number in range(3)]
    assert {each.uuid for each in held} == {"GPU-0", "GPU-1", "GPU-2"}
    for each in held:
        each.release()


def test_a_program_that_the_holder_started_does_not_keep_the_card(start: Start, tmp_path: Path) -> None:
    held = taken(claim(UUID, "mainpc", tmp_path))
    start("sleep", "1000", close_fds=False)
    held.release()
    taken(claim(UUID, "pc2", tmp_path)).release()


@pytest.mark.parametrize("content", [b"", b"{", b'{"host": "pc9", "pid": 1, "start_time": 3}', b"\xff"])
def test_a_holder_that_has_not_signed_is_just_another_supervisor(content: bytes, tmp_path: Path) -> None:
    held = taken(claim(UUID, "mainpc", tmp_path))
    (tmp_path / f"{UUID}.lock").write_bytes(content)
    refused = claim(UUID, "pc2", tmp_path)
    assert refused == OwnedBy("", 0)
    assert str(refused) == "owned by another supervisor of this machine"
    held.release()


def test_every_user_of_the_machine_may_use_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    taken(claim(UUID, "mainpc", folder)).release()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / f"{UUID}.lock").stat().st_mode) == 0o666


def test_a_uuid_names_no_other_folder(tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    taken(claim("../../etc/GPU", "mainpc", folder)).release()
    assert [each.name for each in folder.iterdir()] == [".._.._etc_GPU.lock"]


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / f"{UUID}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match=f"{UUID} cannot be claimed: .*symbolic links"):
        claim(UUID, "mainpc", tmp_path)


def test_a_lock_that_another_creates_meanwhile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"{UUID}.lock"
    opened = os.open

    def late(name: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_EXCL:
            path.touch()
        return opened(name, flags, mode)

    monkeypatch.setattr(os, "open", late)
    taken(claim(UUID, "mainpc", tmp_path)).release()


def test_on_a_full_disk_the_lock_holds_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        claimed = taken(claim(UUID, "mainpc", tmp_path))
    assert str(claim(UUID, "pc2", tmp_path)) == "owned by another supervisor of this machine"
    claimed.release()
    taken(claim(UUID, "pc2", tmp_path)).release()


def test_a_folder_without_locks_is_told_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    taken(claim(UUID, "mainpc", tmp_path)).release()
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(Unavailable, match="No locks available"):
        claim(UUID, "mainpc", tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_machines_folder_is_shared_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_SHARED_FOLDER", tmp_path / "lock" / "tandem")
    assert machine_wide_folder() == tmp_path / "lock" / "tandem"


def test_without_a_writable_shared_folder_the_users_own_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(claims, "_SHARED_FOLDER", tmp_path / "file" / "tandem")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert machine_wide_folder() == tmp_path / f"tandem-claims-{os.getuid()}"
