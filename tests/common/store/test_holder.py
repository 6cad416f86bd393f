from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from common.errors import StorageUnavailable
from common.store import holder
from common.store.holder import FileClaim, is_gone, this_process
from common.store.protocol import StoreRefused

ME = this_process("error_bus")


def test_this_process_lives() -> None:
    assert not is_gone(ME, ME)


def test_a_process_that_ended_is_gone_also_as_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = msgspec.structs.replace(ME, pid=child.pid, start_ticks=holder._start_ticks(child.pid))
    assert not is_gone(theirs, ME)
    child.kill()
    child.communicate()
    assert is_gone(theirs, ME)


def test_another_process_with_the_same_pid_does_not_count_as_the_holder() -> None:
    assert is_gone(msgspec.structs.replace(ME, start_ticks=ME.start_ticks - 1), ME)


def test_nothing_is_known_of_a_process_in_another_place() -> None:
    assert not is_gone(msgspec.structs.replace(ME, place="another boot", start_ticks=1), ME)


def test_a_claim_is_refused_while_held_and_given_after_release(tmp_path: Path) -> None:
    claim = FileClaim(tmp_path / "x.lock", ME)
    with pytest.raises(StoreRefused, match=r"x\.lock is held by error_bus, pid"):
        FileClaim(tmp_path / "x.lock", ME)
    claim.release()
    FileClaim(tmp_path / "x.lock", ME).release()


def test_a_holder_that_could_not_write_its_name_still_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("common.store.holder.os.pwrite", full)
        claim = FileClaim(tmp_path / "x.lock", ME)
    with pytest.raises(StoreRefused, match="has not written its name"):
        FileClaim(tmp_path / "x.lock", ME)
    claim.release()


def test_a_disk_without_file_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("common.store.holder.fcntl.flock", unsupported)
    with pytest.raises(StorageUnavailable, match=r"No locks available.*local disk"):
        FileClaim(tmp_path / "x.lock", ME)
