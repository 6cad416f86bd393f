"""A host's folder under TANDEM_HOME: where its things lie, and the lock by which one supervisor holds it; no more."""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from common.clock import Clock
from common.errors import Conflict


class Holder(msgspec.Struct, frozen=True):
    """Who holds a home: a process, and since when (seconds since 1970)."""

    pid: int
    since: float


class HostHome:
    """`TANDEM_HOME/<host>`, private to its user; the lock goes with the process, however that ends."""

    def __init__(self, home: Path, host: str) -> None:
        self.host = host
        self.root = home / host
        self._fd = -1

    @property
    def sessions_file(self) -> Path:
        """Which sessions were launched and not yet seen to end."""
        return self.root / "sessions.json"

    def log_file(self, name: str) -> Path:
        """The log of the process `name`."""
        return self.root / "logs" / f"{name}.log"

    def claim(self, clock: Clock) -> None:
        """Takes the lock and makes the folders; Conflict says who holds it and since when. OSError where it cannot be written."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.root / "logs").mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = _told(os.pread(fd, 1024, 0))
            os.close(fd)
            raise Conflict(
                f"{self.host}'s home {self.root} is held by {told}; stop that start, or set TANDEM_HOME to another folder"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, msgspec.json.encode(Holder(os.getpid(), clock.wall())), 0)
        self._fd = fd

    def release(self) -> None:
        """Gives the lock back; doing so twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _told(raw: bytes) -> str:
    try:
        holder = msgspec.json.decode(raw, type=Holder)
    except (msgspec.MsgspecError, UnicodeError):
        return "another supervisor"
    since = datetime.fromtimestamp(holder.since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"pid {holder.pid} since {since}"
