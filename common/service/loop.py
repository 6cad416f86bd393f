"""The loop a process runs on: uvloop, a short switch interval, room for many connections, a collector that does not look at
the same things over and over, and signals that mean stop.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

SWITCH_INTERVAL_S: Final = 0.0005
"""A busy thread holds the loop up for at most about this long; Python's default of 5 ms costs 60x in latency."""

COLLECT_AFTER: Final = (10_000, 20, 100)
"""Objects that are new before the collector looks at them, and rounds before it looks at older ones too. Python's 700, 10 and 10
make a service that takes in many records spend a third of its time on looking at records, which are in no cycle.
"""

FILES_AT_START: Final = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""The soft limit on open files that this process was started with, which its children get."""
MOST_FILES: Final = 65_536


def allow_many_files() -> None:
    """As many open files as this process may have, at most MOST_FILES: a connection takes some four.

    The usual soft limit of 1,024 is for programs that call select(), and none of it is left to start a process with when some
    hundred agents are reached or strangers hold connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(main: Coroutine[Any, Any, T], *, small: bool = False) -> T:
    """Run `main` on a fresh uvloop to its end; `small`: on asyncio's own loop, which is slower and takes 2 MB less."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=None if small else _quick_loop) as runner:
        return runner.run(main)


def _quick_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def calm_collector() -> None:
    """Have the garbage collector look less often, and never again at what is there now; for a service, once it is ready.

    Agents keep Python's pace: what a cycle of theirs holds may be a card's memory.
    """
    gc.set_threshold(*COLLECT_AFTER)
    gc.collect()
    gc.freeze()


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and SIGINT, on the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
