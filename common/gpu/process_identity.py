"""Who a process is, as /proc tells it: alive or not, whose descendant, and when it ends.

A pid alone names nobody for long, so a process is pinned by pid and start time (`ProcessId`). Whatever is read here is a
fact about one moment; what follows from it for a lease is decided elsewhere. Nothing here signals or waits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from common.errors import Unavailable
from common.vram.cards import ProcessId

MACHINE: Final = "machine"
"""Under this name a supervisor's `info` says which machine it runs on."""

_PROC = Path("/proc")
_COMM_LIMIT = 15
"""The kernel cuts a command's name here (TASK_COMM_LEN, less the closing zero)."""


class _Stat(NamedTuple):
    parent: int
    session: int
    start_time: int
    ended: bool


def _read_stat(pid: int) -> _Stat | None:
    """The fields of /proc/PID/stat that matter here (proc(5)); the command's name may hold blanks and parentheses."""
    try:
        raw = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = raw[raw.rindex(b")") + 2 :].split()
    # A leader that left its other threads running is a zombie too, yet its process still holds what it held.
    ended = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return _Stat(parent=int(fields[1]), session=int(fields[3]), start_time=int(fields[19]), ended=ended)


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which the living process `pid` started; None when there is none (a zombie is none)."""
    stat = _read_stat(pid)
    return None if stat is None or stat.ended else stat.start_time


def identify(pid: int) -> ProcessId | None:
    """The living process that has this pid now; None when there is none."""
    started = start_time(pid)
    return None if started is None else ProcessId(pid, started)


def this_machine() -> str:
    """What tells this machine from any other, for as long as it runs: this boot of its kernel, and the network stood on.

    A container or namespace with a network of its own is a machine of its own: its loopback is not ours.
    """
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat(_PROC / 'self/ns/net').st_ino}"


def this_process() -> ProcessId:
    """The process that asks. Raises Unavailable where /proc is not mounted."""
    own = identify(os.getpid())
    if own is None:
        raise Unavailable("/proc is not mounted: no process can be told from another")
    return own


def is_alive(pid: int, started: int) -> bool:
    """Whether the very process that started at `started` still runs; another one with its pid does not count."""
    return start_time(pid) == started


def name(pid: int) -> str:
    """What the process is called, in full where the kernel cut it; empty when it is gone."""
    try:
        comm = (_PROC / str(pid) / "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""
    if len(comm) < _COMM_LIMIT:
        return comm
    try:
        first = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0", 1)[0].decode(errors="replace")
    except OSError:
        return comm
    full = first.rsplit("/", 1)[-1]
    return full if full.startswith(comm) else comm


def lineage(pid: int) -> tuple[ProcessId, ...]:
    """Those a process may belong to, nearest first: itself, its ancestors, then the living leader of its session.

    The leader catches a child that was forked twice and now hangs on init; the kernel reuses no pid while it names a
    session. Empty when the process is gone.
    """
    first = _read_stat(pid)
    if first is None or first.ended:
        return ()
    found = [ProcessId(pid, first.start_time)]
    stat: _Stat | None = first
    while stat is not None and stat.parent > 0:
        parent = _read_stat(stat.parent)
        if parent is not None:
            found.append(ProcessId(stat.parent, parent.start_time))
        stat = parent
    leader = identify(first.session) if first.session > 0 else None
    if leader is not None and leader not in found:
        found.append(leader)
    return tuple(found)


def family(root: ProcessId) -> frozenset[ProcessId]:
    """The process, its living descendants and the living members of the session it leads; empty when it is gone."""
    if not is_alive(*root):
        return frozenset()
    stats = {pid: stat for pid in _pids() if (stat := _read_stat(pid)) is not None}
    members = {root.pid} | {pid for pid, stat in stats.items() if stat.session == root.pid}
    while grown := {pid for pid, stat in stats.items() if stat.parent in members and pid not in members}:
        members |= grown
    return frozenset(ProcessId(pid, stats[pid].start_time) for pid in members if pid in stats and not stats[pid].ended)


def visible_pids(reported: Iterable[int]) -> dict[int, int]:
    """For each pid as a driver or a container reports it, the pid this host's /proc knows the process by.

    A pid that /proc has is taken as it is. Another is looked for among the NSpid lines of /proc/PID/status, where a
    process in a container shows its pid in every namespace; it is left out of the answer unless exactly one fits.
    """
    wanted = set(reported)
    mapped = {pid: pid for pid in wanted if (_PROC / str(pid)).exists()}
    missing = wanted - mapped.keys()
    if not missing:
        return mapped
    candidates: dict[int, list[int]] = {pid: [] for pid in missing}
    for pid in _pids():
        for inner in _namespaced_pids(pid)[1:]:
            if inner in candidates:
                candidates[inner].append(pid)
    return mapped | {inner: outer[0] for inner, outer in candidates.items() if len(outer) == 1}


def _namespaced_pids(pid: int) -> tuple[int, ...]:
    try:
        status = (_PROC / str(pid) / "status").read_bytes()
    except OSError:
        return ()
    lines = (line for line in status.splitlines() if line.startswith(b"NSpid:"))
    return tuple(int(each) for each in next(lines, b"NSpid:").split()[1:])


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir(_PROC) if entry.isdigit())


class ExitWatch:
    """A pending call for one process's end; closing it means the call will not come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._pidfd: int | None = None
        self._soon: asyncio.Handle | None = None

    def _follow(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._loop.add_reader(pidfd, self._fire)

    def _fire_soon(self) -> None:
        self._soon = self._loop.call_soon(self._fire)

    def _fire(self) -> None:
        self.close()
        self._callback()

    def close(self) -> None:
        """Drops the watch; may be called again, and after the end."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def watch_exit(pid: int, started: int, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> ExitWatch:
    """Has the loop call `callback` once when the process ends, in its next turn if it already has; never from in here.

    Works for any process, not only children (pidfd_open(2)). Raises Unavailable where no pidfd can be had.
    """
    watch = ExitWatch(loop, callback)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        watch._fire_soon()
        return watch
    except OSError as error:
        raise Unavailable(f"process {pid} cannot be watched: {error.strerror}", pid=pid) from error
    # Only with the pidfd in hand is the answer final: the pid cannot pass to another process unnoticed any more.
    if is_alive(pid, started):
        watch._follow(pidfd)
    else:
        os.close(pidfd)
        watch._fire_soon()
    return watch
