"""The task queue by itself: durable tasks taken on from four callers, and whether a long queue makes the next one dearer."""

from __future__ import annotations

from typing import Final

from benchmarks.alone import Alone, alone
from benchmarks.callers import CALLERS, IN_FLIGHT, answered_after
from benchmarks.contest import alternate
from benchmarks.disk import rows_per_s
from benchmarks.result import Figure, Result, Target
from common.api import resource_manager, tasks

TASKS: Final = 100_000
PART: Final = 10_000
WARM: Final = 5_000
GROUP: Final = CALLERS * IN_FLIGHT
PAYLOAD: Final = {"document": "/srv/pages/12345.pdf", "pages": [1, 2, 3], "language": "en"}

RATE: Final = Target("tasks acknowledged durable, from 4 callers with 64 in flight each", "at least", 5_000, "tasks/s")
STEADY: Final = Target("rate of the last 10,000 of 100,000 queued tasks against the first", "at least", 0.9, "x")


def run(rounds: int) -> Result:
    found = alternate(rounds, {"bare": lambda: {"per_s": rows_per_s(GROUP)}, "tasks": _queued})
    rate = Figure.of("acknowledged, 100,000 in a row", "tasks/s", [each["per_s"] for each in found["tasks"]])
    steady = Figure.of("the last 10,000 against the first", "x", [each["steady"] for each in found["tasks"]])
    figures = [
        rate,
        Figure.of("first 10,000", "tasks/s", [each["first"] for each in found["tasks"]]),
        Figure.of("last 10,000", "tasks/s", [each["last"] for each in found["tasks"]]),
        steady,
        Figure.of("processor time for each", "us", [each["busy_us"] for each in found["tasks"]]),
        Figure.of("memory of 100,000 tasks", "MB", [each["added_mb"] for each in found["tasks"]]),
        Figure.of("killed with 100,000 tasks, ready again", "s", [each["back_s"] for each in found["tasks"]]),
        Figure.of(f"bare SQLite, FULL, {GROUP} rows a commit", "rows/s", [each["per_s"] for each in found["bare"]]),
    ]
    return Result("Tasks queued, durable", figures, [RATE.judge(rate.median), STEADY.judge(steady.median)])


def _queued() -> dict[str, float]:
    with alone("rm") as manager:
        _submitted(manager, WARM)
        before, busy_before = manager.resident_mb, manager.busy_s
        ends = _submitted(manager, TASKS)
        added_mb, busy_us = manager.resident_mb - before, (manager.busy_s - busy_before) / TASKS * 1e6
        back_s = manager.back_s()
    first, last = PART / ends[PART - 1], PART / (ends[-1] - ends[-PART - 1])
    return {
        "per_s": TASKS / ends[-1],
        "first": first,
        "last": last,
        "steady": last / first,
        "busy_us": busy_us,
        "added_mb": added_mb,
        "back_s": back_s,
    }


def _submitted(manager: Alone, count: int) -> list[float]:
    request = tasks.SubmitTask(capability="read", payload=PAYLOAD)
    return answered_after(manager.directory, resource_manager.SERVICE, tasks.SUBMIT_TASK, lambda _: request, count)
