"""Which supervisor of this machine may schedule a card: the one that holds the lock named by the card's UUID.

The kernel keeps the lock (flock(2)) and drops it when its holder dies, so a claim is never stale. What is written in the
file only tells people who holds it; nothing is decided by it.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from common.errors import Unavailable
from common.gpu.process_identity import is_alive, this_process

_SHARED_FOLDER: Final = Path("/run/lock/tandem")
_ANY_USER: Final = 0o1777
"""Every user of the machine may claim, and nobody may remove another's file."""


class OwnedBy(msgspec.Struct, frozen=True):
    """Who holds the card; `host` is empty and `pid` 0 where the holder has not said so yet."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"owned by {self.host} (pid {self.pid})" if self.host else "owned by another supervisor of this machine"


class _Holder(msgspec.Struct, frozen=True):
    host: str
    pid: int
    start_time: int


class Claim:
    """A card held by this process until `release` or death; not inherited by programs it starts."""

    def __init__(self, uuid: str, descriptor: int) -> None:
        self.uuid = uuid
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Gives the card up; may be called again."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def claim(uuid: str, host: str, folder: Path) -> Claim | OwnedBy:
    """Takes the card for `host`'s supervisor, or says who has it. Never waits.

    Raises Unavailable where the lock's file cannot be opened.
    """
    path = folder / f"{re.sub('[^A-Za-z0-9_.-]', '_', uuid)}.lock"
    try:
        descriptor = _open_shared(path)
    except OSError as error:
        raise Unavailable(f"{uuid} cannot be claimed: {path}: {error.strerror}", card_uuid=uuid) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        return holder
    except OSError as error:
        os.close(descriptor)
        raise Unavailable(f"{uuid} cannot be claimed: {path}: {error.strerror}", card_uuid=uuid) from error
    _sign(descriptor, host)
    return Claim(uuid, descriptor)


def machine_wide_folder() -> Path:
    """Where this machine's claims lie: /run/lock/tandem, or a folder of this user's own where that cannot be written."""
    own = Path(os.environ.get("TMPDIR") or "/tmp") / f"tandem-claims-{os.getuid()}"
    return next(folder for folder in (_SHARED_FOLDER, own) if folder is own or _usable(folder))


def _usable(folder: Path) -> bool:
    try:
        _make(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(_ANY_USER)  # mkdir's own mode is cut by the umask


def _open_shared(path: Path) -> int:
    """Opens the file without O_CREAT if it is there: fs.protected_regular refuses that on another user's file."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        _make(path.parent)
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(descriptor, 0o666)
    return descriptor


def _sign(descriptor: int, host: str) -> None:
    """Where the name cannot be written (a full disk), the lock holds all the same."""
    with suppress(OSError, Unavailable):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, msgspec.json.encode(_Holder(host, *this_process())), 0)


def _holder(descriptor: int) -> OwnedBy:
    try:
        holder = msgspec.json.decode(os.pread(descriptor, 4096, 0), type=_Holder)
    except (msgspec.MsgspecError, UnicodeError):
        return OwnedBy("", 0)
    return OwnedBy(holder.host, holder.pid) if is_alive(holder.pid, holder.start_time) else OwnedBy("", 0)
