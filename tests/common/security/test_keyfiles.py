from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from common.security import ed25519, keyfiles
from common.security.keyfiles import KeyfileMissing, KeyfileRefused, KeyringFile, ProcessKeys, SigningKeys
from common.security.keyring import HostKeys, KeyEntry, Keyring

KEYS = ProcessKeys("p" * 40, "s3cr3t" * 6, "seed" * 10)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys = keyfiles.keys_folder(tmp_path, "pc2")
    keyfiles.make_folder(keys)
    return keys


def test_a_folder_of_keys_is_its_user_s_alone_whatever_it_was(tmp_path: Path) -> None:
    keys = keyfiles.keys_folder(tmp_path, "pc2")
    keys.mkdir(mode=0o755, parents=True)
    keyfiles.make_folder(keys)
    assert mode(keys) == 0o700


def test_what_is_written_is_read_again_and_nobody_else_may_read_it(folder: Path) -> None:
    path = folder / "hub.json"
    before = os.umask(0)
    try:
        keyfiles.write(path, KEYS)
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert keyfiles.read(path, ProcessKeys) == KEYS


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(folder: Path) -> None:
    path = folder / "hub.json"
    keyfiles.write(path, KEYS)
    with path.open() as old:
        keyfiles.write(path, ProcessKeys("q" * 40, "t" * 40))
        assert "s3cr3t" in old.read()
    assert keyfiles.read(path, ProcessKeys).public == "q" * 40
    assert [each.name for each in folder.iterdir()] == ["hub.json"]


def test_a_reader_never_sees_half_a_file(folder: Path) -> None:
    path = folder / "hub.json"
    keyfiles.write(path, KEYS)
    over = threading.Event()

    def replace() -> None:
        for number in range(50):
            keyfiles.write(path, ProcessKeys(f"{number:040}", "s" * (number * 500)))
        over.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not over.is_set():
        keyfiles.read(path, ProcessKeys)
    writer.join()


def test_a_file_that_is_not_there_is_told_apart(folder: Path) -> None:
    with pytest.raises(KeyfileMissing, match="is not there"):
        keyfiles.read(folder / "hub.json", ProcessKeys)


def test_a_file_that_others_may_read_is_refused_with_its_mend(folder: Path) -> None:
    path = folder / "hub.json"
    keyfiles.write(path, KEYS)
    path.chmod(0o640)
    with pytest.raises(KeyfileRefused, match=f"mode 0640.*chmod 600 {path}"):
        keyfiles.read(path, ProcessKeys)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"public": "x"}', b'{"public": 1, "secret": "s3cr3t"}', b"\xff", b"[" * 9000]
)
def test_a_damaged_file_is_refused_and_its_content_not_told(folder: Path, content: bytes) -> None:
    path = folder / "hub.json"
    keyfiles.write_private(path, content)
    with pytest.raises(KeyfileRefused, match="is damaged") as caught:
        keyfiles.read(path, ProcessKeys)
    assert not caught.value.retryable
    assert "s3cr3t" not in str(caught.value)


def test_what_is_no_file_or_cannot_be_opened_is_refused(folder: Path) -> None:
    with pytest.raises(KeyfileRefused, match="is not a plain file"):
        keyfiles.read(Path("/dev/null"), ProcessKeys)
    os.mkfifo(folder / "pipe", 0o600)
    for odd in (folder, folder / "pipe"):
        with pytest.raises(KeyfileRefused, match="is not a plain file"):
            keyfiles.read(odd, ProcessKeys)
    (folder / "loop").symlink_to("loop")
    with pytest.raises(KeyfileRefused, match="cannot be read"):
        keyfiles.read(folder / "loop", ProcessKeys)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another user")
def test_another_user_s_file_is_refused(folder: Path) -> None:
    path = folder / "hub.json"
    keyfiles.write(path, KEYS)
    os.chown(path, 65_534, 65_534)
    with pytest.raises(KeyfileRefused, match="belongs to user 65534"):
        keyfiles.read(path, ProcessKeys)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(folder: Path) -> None:
    path = folder / "taken"
    path.mkdir()
    with pytest.raises(KeyfileRefused, match="cannot be written"):
        keyfiles.write(path, KEYS)
    assert [each.name for each in folder.iterdir()] == ["taken"]
    with pytest.raises(KeyfileRefused, match="cannot be written"):
        keyfiles.write(folder / "nowhere" / "hub.json", KEYS)
    with pytest.raises(KeyfileRefused, match="cannot be kept private"):
        keyfiles.make_folder(Path("/proc/nowhere"))


def test_fresh_keys_are_pairs_and_no_two_are_alike() -> None:
    import zmq

    one, other = keyfiles.new_process_keys(), keyfiles.new_process_keys(issuer=True)
    assert zmq.curve_public(one.secret.encode()).decode() == one.public
    assert one.public != other.public
    assert not one.signing
    assert ed25519.public_of(other.signing)
    operator = keyfiles.new_signing_keys("operator@pc2")
    assert operator.public == ed25519.public_of(operator.seed)


def test_no_repr_shows_a_secret() -> None:
    assert repr(KEYS) == f"ProcessKeys(public={'p' * 40!r})"
    assert repr(SigningKeys("pc2", "public", "s3cr3t")) == "SigningKeys(name='pc2', public='public')"


class TestFollowing:
    def ring(self, *names: str) -> Keyring:
        keys = [KeyEntry(name, "service", name[0] * 40) for name in names]
        return Keyring(own_host="pc2", hosts={"pc2": HostKeys(host="pc2", serial=1, issued_at=1.0, keys=keys)})

    def test_without_a_file_nobody_is_trusted(self, folder: Path) -> None:
        followed = KeyringFile(folder / "keyring.json", "pc2")
        assert followed.current == Keyring(own_host="pc2")
        assert not followed.problem
        assert not followed.refresh()

    def test_a_file_that_came_changed_or_went_is_another_keyring(self, folder: Path) -> None:
        path = folder / "keyring.json"
        followed = KeyringFile(path, "pc2")
        keyfiles.write(path, self.ring("hub"))
        assert followed.refresh()
        assert followed.current == self.ring("hub")
        keyfiles.write(path, self.ring("bus"))
        assert followed.refresh()
        assert followed.current == self.ring("bus")
        path.unlink()
        assert followed.refresh()
        assert followed.current == Keyring(own_host="pc2")

    def test_while_nothing_changed_the_keyring_is_the_very_same(self, folder: Path) -> None:
        path = folder / "keyring.json"
        keyfiles.write(path, self.ring("hub"))
        followed = KeyringFile(path, "pc2")
        before = followed.current
        assert not followed.refresh()
        keyfiles.write(path, self.ring("hub"))
        assert not followed.refresh()
        assert followed.current is before

    def test_a_damaged_file_leaves_the_last_keyring_in_force_until_it_is_mended(self, folder: Path) -> None:
        path = folder / "keyring.json"
        keyfiles.write(path, self.ring("hub"))
        followed = KeyringFile(path, "pc2")
        path.write_bytes(b"{")
        assert not followed.refresh()
        assert followed.current == self.ring("hub")
        assert "is damaged" in followed.problem
        keyfiles.write(path, self.ring("bus"))
        assert followed.refresh()
        assert not followed.problem
        assert followed.current == self.ring("bus")

    def test_a_file_that_cannot_be_looked_at_leaves_the_last_keyring_in_force(self, folder: Path) -> None:
        path = folder / "keyring.json"
        keyfiles.write(path, self.ring("hub"))
        followed = KeyringFile(path, "pc2")
        path.unlink()
        path.symlink_to(path.name)
        assert not followed.refresh()
        assert "cannot be read" in followed.problem
        assert followed.current == self.ring("hub")

    def test_a_file_that_goes_between_the_look_and_the_reading_is_looked_at_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = folder / "keyring.json"
        keyfiles.write(path, self.ring("hub"))
        followed = KeyringFile(path, "pc2")
        path.unlink()
        monkeypatch.setattr(followed, "_look", lambda: (1, 2, 3))
        assert not followed.refresh()
        assert followed.current == self.ring("hub")
        monkeypatch.undo()
        assert followed.refresh()
        assert followed.current == Keyring(own_host="pc2")

    def test_a_file_that_only_became_private_again_is_taken(self, folder: Path) -> None:
        path = folder / "keyring.json"
        keyfiles.write(path, self.ring("hub"))
        path.chmod(0o644)
        followed = KeyringFile(path, "pc2")
        assert "chmod 600" in followed.problem
        assert followed.current == Keyring(own_host="pc2")
        path.chmod(0o600)
        assert followed.refresh()
        assert followed.current == self.ring("hub")


def test_what_a_killed_writer_had_begun_goes_and_everything_else_stays(tmp_path: Path) -> None:
    keyfiles.write(tmp_path / "supervisor.json", KEYS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: os._exit(0))
        if (child := os.fork()) == 0:
            keyfiles.write(tmp_path / "supervisor.json", KEYS)
        os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    keyfiles.forget_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["supervisor.json"]
