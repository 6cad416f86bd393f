"""What a service costs while nobody calls it."""

from __future__ import annotations

import time
from typing import Final

import psutil

from benchmarks.contest import alternate, serving
from benchmarks.result import Figure, Result, Target

SETTLE_S: Final = 1.0
WATCH_S: Final = 4.0
MEMORY: Final = Target("resident memory of an idle service", "at most", 45.0, "MB")
PROCESSOR: Final = Target("processor time of an idle service", "at most", 1.0, "% of a core")


def run(rounds: int) -> Result:
    found = alternate(rounds, {"idle": _watch})["idle"]
    memory = Figure.of("resident memory", "MB", [rss for rss, _ in found])
    processor = Figure.of("processor time", "% of a core", [busy for _, busy in found])
    note = "a service shell with its request, events and health ports and one verb; a whole service adds its own room"
    verdicts = [MEMORY.judge(memory.median), PROCESSOR.judge(processor.median)]
    return Result("An idle service", [memory, processor], verdicts, [note])


def _watch() -> tuple[float, float]:
    """Resident megabytes (10^6 bytes) and percent of a core, of a fresh process after it settled."""
    with serving("tandem_native") as server:
        time.sleep(SETTLE_S)
        process = psutil.Process(server.pid)
        before = process.cpu_times()
        time.sleep(WATCH_S)
        after = process.cpu_times()
        busy = after.user + after.system - before.user - before.system
        return process.memory_info().rss / 1e6, 100 * busy / WATCH_S
