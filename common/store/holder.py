"""Who holds a store: names the process, tells whether it is gone, and locks a file to one process.

A process is its pid and start time within one boot and one pid namespace; of a process elsewhere nothing is known.
"""

from __future__ import annotations

import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from common.errors import StorageUnavailable
from common.store.protocol import StoreRefused


class Holder(msgspec.Struct, frozen=True):
    """The process that may write: `place` is the boot and pid namespace in which `pid` and `start_ticks` mean something."""

    service: str
    host: str
    place: str
    pid: int
    start_ticks: int
    since: str

    def __str__(self) -> str:
        return f"{self.service}, pid {self.pid} on {self.host} since {self.since}"


def this_process(service: str) -> Holder:
    """The calling process as a holder, from now on."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Holder(
        service=service,
        host=socket.gethostname(),
        place=f"{boot} {os.readlink('/proc/self/ns/pid')}",
        pid=os.getpid(),
        start_ticks=_start_ticks(os.getpid()),
        since=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def is_gone(holder: Holder, seen_from: Holder) -> bool:
    """Whether `holder` has certainly ended; False when it lives or when it lives out of sight of `seen_from`."""
    return holder.place == seen_from.place and _start_ticks(holder.pid) != holder.start_ticks


def _start_ticks(pid: int) -> int:
    """Clock ticks from boot to the start of `pid` (proc(5), stat field 22); 0 when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


class FileClaim:
    """An exclusive flock on a file beside the store, in which the holder writes who it is.

    The kernel drops it when the holder dies, however it dies. The file stays: unlinking it would let two openers each
    lock a different file of the same name.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
            self._sign(holder)
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Gives the file up."""
        os.close(self._fd)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreRefused(
                f"{self._path} is held by {self._reader()}; stop that process, or give this one a folder of its own"
            ) from error
        except OSError as error:
            raise StorageUnavailable(
                f"{self._path} cannot be locked ({error.strerror}); put it on a local disk that has file locks"
            ) from error

    def _sign(self, holder: Holder) -> None:
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, msgspec.json.encode(holder), 0)
        except OSError:
            pass  # on a full disk the lock still holds; only the name is missing

    def _reader(self) -> str:
        try:
            return str(msgspec.json.decode(os.pread(self._fd, 4096, 0), type=Holder))
        except msgspec.MsgspecError:
            return "another process, which has not written its name"
