"""What ObservabilityHub takes in of metric points, pushed in batches as senders push them, and what memory they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from benchmarks.alone import Alone, alone
from benchmarks.callers import CALLERS, answered_after
from benchmarks.contest import alternate, serving
from benchmarks.result import Figure, Result, Target
from common.api import observability_hub as api
from common.client.opening import open_client
from common.wire.codec import encode_json

BATCH: Final = 100
POINTS: Final = 500_000
"""Points of one measurement at full speed."""
PACE_PER_S: Final = 20_000
PACED_S: Final = 12.0
"""Longer than the hub lets pass between two writes of its history."""
AGENTS: Final = 50
METRICS: Final = 20
FLOOR: Final = "pyzmq_drain"
IN_FLIGHT: Final = 4

RATE: Final = Target("metric points taken in", "at least", 20_000, "points/s")
MEMORY: Final = Target("memory of ObservabilityHub that 12 s of 20,000 points/s add", "at most", 3, "MB")


def batch(number: int) -> api.PushMetrics:
    """One batch of one of AGENTS, which has METRICS series."""
    points = [
        api.MetricPoint(name=f"metric{each % METRICS}", value=float(number + each), labels={"stage": "decode"})
        for each in range(BATCH)
    ]
    return api.PushMetrics(agent=f"agent{number % AGENTS}", points=points)


def run(rounds: int) -> Result:
    prepared = [batch(number) for number in range(AGENTS)]
    with serving(FLOOR) as bare, alone("hub") as hub:
        _pushed(hub, prepared)
        _paced(hub, prepared)
        size = len(encode_json(prepared[0]))
        measures: dict[str, Callable[[], dict[str, float]]] = {
            "bare": lambda: bare.ask("drained", CALLERS * IN_FLIGHT, size),
            "pushed": lambda: _pushed(hub, prepared),
            "paced": lambda: _paced(hub, prepared),
        }
        found = alternate(rounds, measures)
    taken = Figure.of(f"batches of {BATCH}", "points/s", [each["per_s"] for each in found["pushed"]])
    added = Figure.of("memory added by 12 s of 20,000 points/s", "MB", [each["added_mb"] for each in found["paced"]])
    figures = [
        taken,
        Figure.of(f"{FLOOR}, the same bytes", "points/s", [BATCH * each["per_s"] for each in found["bare"]]),
        Figure.of("busy at 20,000 points/s", "% of a core", [each["busy"] for each in found["paced"]]),
        added,
    ]
    note = f"{AGENTS * METRICS} series with a label each, written to the history aside every 10 s; {CALLERS} callers"
    return Result("Metric points taken in", figures, [RATE.judge(taken.median), MEMORY.judge(added.median)], [note])


def _pushed(hub: Alone, prepared: list[api.PushMetrics]) -> dict[str, float]:
    ends = answered_after(
        hub.directory, hub.name, api.PUSH_METRICS, lambda n: prepared[n % AGENTS], POINTS // BATCH, IN_FLIGHT
    )
    return {"per_s": POINTS / ends[-1]}


def _paced(hub: Alone, prepared: list[api.PushMetrics]) -> dict[str, float]:
    before, busy_before, began = hub.resident_mb, hub.busy_s, time.perf_counter()
    with open_client(directory=hub.directory) as client:
        for number in range(int(PACED_S * PACE_PER_S / BATCH)):
            time.sleep(max(0.0, began + number * BATCH / PACE_PER_S - time.perf_counter()))
            answer = client.call(hub.name, api.PUSH_METRICS, prepared[number % AGENTS], idempotent=False)
            if answer.dropped:
                raise RuntimeError(f"{answer.dropped} points were dropped: {answer.reason}")
    took = time.perf_counter() - began
    return {"busy": 100 * (hub.busy_s - busy_before) / took, "added_mb": hub.resident_mb - before}
