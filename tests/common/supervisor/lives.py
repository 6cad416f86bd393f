"""Programs that are hard to end, and ways to see whether they have; for the tests of processes and the watchdog."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common.supervisor.watchdog import Process, is_alive, read_stat

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    if {leaves_session}: os.setsid()
    if os.fork(): os._exit(0)
    with open({file!r} + ".new", "w") as file: file.write(str(os.getpid()))
    os.rename({file!r} + ".new", {file!r})
    time.sleep(120)
    os._exit(0)
{then}
"""
"""Forks twice, so that a grandchild that ignores TERM is nobody's child; its pid is written to a file."""


def stubborn(file: Path, *, leaves_session: bool = False, then: str = "time.sleep(120)") -> list[str]:
    return [sys.executable, "-c", STUBBORN.format(file=str(file), leaves_session=leaves_session, then=then)]


async def until(fact: Callable[[], object], limit_s: float = 60.0) -> None:
    """Waits for a fact about processes, within a generous bound."""
    end = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < end, f"not so within {limit_s} s"
        await asyncio.sleep(0.01)


def wait_until(fact: Callable[[], object], limit_s: float = 60.0) -> None:
    asyncio.run(until(fact, limit_s))


def pinned(pid: int) -> Process:
    stat = read_stat(pid)
    assert stat is not None
    return Process(pid, stat.start_time)


def pid_in(file: Path) -> Process:
    return pinned(int(file.read_text()))


def gone(*processes: Process) -> bool:
    return not any(is_alive(process) for process in processes)


def ended(pid: int) -> bool:
    """Whether nothing runs under this pid, a zombie that nobody waits for aside."""
    stat = read_stat(pid)
    return stat is None or stat.state in "ZX"


def ignores_term(pid: int) -> bool:
    """Whether a process has come as far as ignoring TERM (proc(5), SigIgn)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
    return bool(ignored >> (signal.SIGTERM - 1) & 1)
