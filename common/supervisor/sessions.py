"""The sessions a supervisor launched, on disk, so that the next one can end or adopt what an unclean death left behind."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from common.supervisor.watchdog import Process, is_alive, members, sweep

_KERNEL_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Session(msgspec.Struct, frozen=True):
    """One launched process that leads a session of its own: pid and session id are one number."""

    name: str
    pid: int
    start_time: int
    mark: str
    survives: bool = False
    port: int = 0
    events_port: int = 0
    health_check_port: int = 0

    @property
    def process(self) -> Process:
        """Its leader, pinned."""
        return Process(self.pid, self.start_time)

    def members(self) -> set[Process]:
        """Every living process of it, strays by their mark included: all are as young as its leader, or younger."""
        mark = os.fsencode(self.mark) + b"\0" if self.mark else b""
        return members({self.pid: self.start_time}, mark, self.start_time)


class _Recorded(msgspec.Struct, frozen=True):
    kernel_boot: str
    sessions: list[Session]


def save(path: Path, sessions: Iterable[Session]) -> None:
    """Replaces the record in one step; OSError where the disk does not take it."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(_Recorded(_KERNEL_BOOT.read_text().strip(), list(sessions))))
    fresh.replace(path)


def load(path: Path) -> list[Session]:
    """What was recorded since the machine booted; nothing where there is no readable record."""
    try:
        recorded = msgspec.json.decode(path.read_bytes(), type=_Recorded)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError):
        return []
    return recorded.sessions if recorded.kernel_boot == _KERNEL_BOOT.read_text().strip() else []


def end_leftovers(sessions: Iterable[Session], grace_s: float) -> set[Process]:
    """Ends all of `sessions`, TERM and after `grace_s` KILL; returns what would not end. Blocks: run it aside."""
    left = list(sessions)
    return sweep(lambda: set().union(*(session.members() for session in left)), grace_s)


def alive(session: Session) -> bool:
    """Whether the session's leader still runs."""
    return is_alive(session.process)
