"""The files that keys lie in: private to their user, replaced whole, and followed where they change.

Everything is JSON under TANDEM_HOME/HOST/keys, the folder 0700 and each file 0600. A file that others may read, that another user
owns or that cannot be read as what it should be is refused with one sentence that says how to mend it; what it holds is
in no error.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final, TypeVar

import msgspec

from common.errors import StorageUnavailable
from common.security import ed25519
from common.security.keyring import Keyring

T = TypeVar("T", bound=msgspec.Struct)

KEYS_FOLDER: Final = "keys"
KEYRING_FILE: Final = "keyring.json"
HOST_FILE: Final = "host.json"
OPERATOR_FILE: Final = "operator.json"


class KeyfileRefused(StorageUnavailable):
    """A key file cannot be used until someone mends what the sentence names."""

    retryable: ClassVar[bool] = False


class KeyfileMissing(KeyfileRefused):
    """There is no such key file."""


class ProcessKeys(msgspec.Struct, frozen=True):
    """A process's CURVE pair in Z85 and, for an issuer of tokens, its Ed25519 seed; "" for all others."""

    public: str
    secret: str
    signing: str = ""

    def __repr__(self) -> str:
        return f"ProcessKeys(public={self.public!r})"


class SigningKeys(msgspec.Struct, frozen=True):
    """An Ed25519 pair in base64url: of a host (`host.json`) or of an operator (`operator.json`); `name` says whose."""

    name: str
    public: str
    seed: str

    def __repr__(self) -> str:
        return f"SigningKeys(name={self.name!r}, public={self.public!r})"


def new_process_keys(*, issuer: bool = False) -> ProcessKeys:
    """A fresh pair, with a signing seed where the process issues tokens."""
    import zmq

    public, secret = zmq.curve_keypair()
    return ProcessKeys(public.decode(), secret.decode(), ed25519.new_seed() if issuer else "")


def new_signing_keys(name: str) -> SigningKeys:
    """A fresh Ed25519 pair."""
    seed = ed25519.new_seed()
    return SigningKeys(name, ed25519.public_of(seed), seed)


def keys_folder(home: Path, host: str) -> Path:
    """Where a host's keys lie."""
    return home / host / KEYS_FOLDER


def make_folder(folder: Path) -> None:
    """Makes the folder and mends its mode to 0700; KeyfileRefused when that cannot be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise KeyfileRefused(f"{folder} cannot be kept private: {error.strerror}") from None


def forget_unfinished(folder: Path) -> None:
    """Removes what a life that was killed had begun to write into a folder of which this process is the one writer now."""
    for path in folder.glob(".*.json.*"):
        with suppress(OSError):
            path.unlink()


def write(path: Path, value: msgspec.Struct) -> None:
    """Replaces the file whole, 0600 and on disk before it has its name; KeyfileRefused when that cannot be."""
    write_private(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Replaces the file by one that its user alone may read; KeyfileRefused when that cannot be."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        try:
            _write_new(fresh, content)
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise KeyfileRefused(f"{path} cannot be written: {error.strerror}") from None


def _write_new(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(content)
        file.flush()
        os.fsync(fd)


def _flush_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path, type: type[T]) -> T:
    """What the file holds; KeyfileMissing, or KeyfileRefused when it is damaged or not private."""
    raw = read_private(path)
    try:
        return msgspec.json.decode(raw, type=type)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise KeyfileRefused(
            f"{path} is damaged ({error}); restore it, or remove it and start its host again"
        ) from None


def read_private(path: Path) -> bytes:
    """The bytes of a file that its user alone may read; KeyfileMissing, KeyfileRefused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe in its place is not waited for
    except FileNotFoundError:
        raise KeyfileMissing(f"{path} is not there") from None
    except OSError as error:
        raise KeyfileRefused(f"{path} cannot be read: {error.strerror}") from None
    try:
        _check_private(path, os.fstat(fd))
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise KeyfileRefused(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeyfileRefused(f"{path} is not a plain file")
    if found.st_mode & 0o077:
        raise KeyfileRefused(
            f"{path} may be read by others (mode {stat.S_IMODE(found.st_mode):04o}); run: chmod 600 {path}"
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise KeyfileRefused(f"{path} belongs to user {found.st_uid}; this process runs as user {os.geteuid()}")


class KeyringFile:
    """The keyring that lies in a file, as fresh as the last `refresh`.

    A file that is not there is an empty keyring of `own_host`, which trusts nobody. One that cannot be read leaves the last
    keyring in force, and `problem` says so.
    """

    def __init__(self, path: Path, own_host: str) -> None:
        self._path = path
        self._own_host = own_host
        self._seen: tuple[int, int, int] | None = None
        self.current = Keyring(own_host=own_host)
        self.problem = ""
        self.refresh()

    def refresh(self) -> bool:
        """Look at the file; whether `current` is another keyring now. Cheap (one stat) while nothing changed."""
        seen = self._look()
        if seen == self._seen and not self.problem:
            return False
        try:
            found = Keyring(own_host=self._own_host) if seen is None else read(self._path, Keyring)
        except KeyfileMissing:
            return False
        except KeyfileRefused as error:
            self.problem = error.message
            return False
        self._seen, self.problem = seen, ""
        changed = found != self.current
        if changed:  # else the very same stays, for those who keep things by it
            self.current = found
        return changed

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return 0, 0, 0  # reading it says why
        return found.st_mtime_ns, found.st_ino, found.st_size
