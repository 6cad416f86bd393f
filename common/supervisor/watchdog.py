"""Ends a dead supervisor's sessions: a program of its own, one per host, that holds the read end of a pipe from its supervisor.

    python -I -S watchdog.py GRACE_S MARK

Lines `+ SID START_TIME` and `- SID` on standard input say which sessions are to be ended when the pipe closes; what carries
MARK at the beginning of its TANDEM_SUPERVISED variable belongs to them, in whichever session it hides. They get TERM, and KILL
after GRACE_S. It imports the standard library alone, so that it starts fast and nothing can break it; it starts nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

POLL_S = 0.02
KILL_LIMIT_S = 10.0
"""After KILL only a process stuck in the kernel is still there; it is waited for no longer than this."""


class Process(NamedTuple):
    """A living process, pinned: a pid comes back, a pid with its start time (in ticks since boot) does not."""

    pid: int
    start_time: int


class Stat(NamedTuple):
    """What /proc/PID/stat (proc(5)) says that matters here."""

    state: str
    session: int
    start_time: int


def read_stat(pid: int) -> Stat | None:
    """The process's state, or None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Stat(fields[0].decode(), int(fields[3]), int(fields[19])) if len(fields) > 19 else None


def is_alive(process: Process) -> bool:
    """Whether this very process is there and not a zombie."""
    stat = read_stat(process.pid)
    return stat is not None and stat.state not in "ZX" and stat.start_time == process.start_time


def members(sessions: Mapping[int, int], mark: bytes, since: int = 0) -> set[Process]:
    """The living processes of `sessions` (leader's pid to its start time), and those that carry `mark`.

    A session whose number is now led by a younger process is another one. An empty mark marks nothing, nor does any mark what
    started before `since`: whose environment nobody has to read.
    """
    return {
        Process(pid, stat.start_time)
        for pid, stat in _all()
        if _belongs(stat, sessions.get(stat.session)) or (mark and stat.start_time >= since and _carries(pid, mark))
    }


def send(process: Process, number: int) -> bool:
    """Signals this very process, or nobody: the pidfd is opened first and the start time compared after. Whether it did."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if is_alive(process):
            signal.pidfd_send_signal(pidfd, number)
            return True
    except OSError:
        pass
    finally:
        os.close(pidfd)
    return False


def sweep(find: Callable[[], set[Process]], grace_s: float) -> set[Process]:
    """TERM to all that `find` finds, KILL after `grace_s` to what is left; returns what not even that ended. Blocks."""
    begun = time.monotonic()
    asked: set[Process] = set()
    while left := find():
        waited_s = time.monotonic() - begun
        if waited_s > grace_s + KILL_LIMIT_S:
            break
        for process in left if waited_s >= grace_s else left - asked:
            send(process, signal.SIGKILL if waited_s >= grace_s else signal.SIGTERM)
        asked |= left
        time.sleep(POLL_S)
    return left


def _all() -> Iterator[tuple[int, Stat]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            stat = read_stat(int(name))
            if stat is not None and stat.state not in "ZX":
                yield int(name), stat


def _belongs(stat: Stat, leader_at: int | None) -> bool:
    if leader_at is None or stat.start_time < leader_at:
        return False
    leader = read_stat(stat.session)
    return leader is None or leader.start_time == leader_at


def _carries(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return b"\0TANDEM_SUPERVISED=" + mark in b"\0" + file.read()
    except OSError:
        return False


def main(grace_s: float, mark: bytes) -> None:
    """Follows the pipe until it closes, then ends what is recorded."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions: dict[int, int] = {}
    for line in sys.stdin.buffer:
        sign, sid, *start_time = line.split()
        if sign == b"+":
            sessions[int(sid)] = int(start_time[0])
        else:
            sessions.pop(int(sid), None)
    sweep(lambda: members(sessions, mark), grace_s)


if __name__ == "__main__":
    main(float(sys.argv[1]), os.fsencode(sys.argv[2]))
