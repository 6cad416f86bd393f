"""What ErrorBus takes in, each acknowledged durable: one error a call as any program reports it, and batches as spools send."""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns
from typing import Final

from benchmarks.alone import Alone, alone
from benchmarks.callers import CALLERS, IN_FLIGHT, answered_after
from benchmarks.contest import alternate, serving
from benchmarks.result import Figure, Result, Target
from common.api import error_bus as api
from common.wire.codec import encode_json

ERRORS: Final = 50_000
"""Errors of one measurement; so many come before, and as many of them again show what memory they add."""
BATCH: Final = 500
BATCHES: Final = 400
AGENTS: Final = 50
KINDS: Final = 200
FLOOR: Final = "pyzmq_drain"

RATE: Final = Target("errors taken in, one a call, each durable when acknowledged", "at least", 10_000, "errors/s")
MEMORY: Final = Target("memory of ErrorBus that 50,000 further errors add", "at most", 3, "MB")
STACK: Final = "\n".join(
    ["Traceback (most recent call last):"]
    + [
        f'  File "/srv/agents/reader/{name}.py", line {n}, in {name}\n    {name}()'
        for n, name in enumerate("abcdef", 10)
    ]
)


def report(number: int) -> api.ErrorReport:
    """One of KINDS errors of one of AGENTS; no two messages are the same."""
    kind = number % KINDS
    return api.ErrorReport(
        agent=f"reader{number % AGENTS}",
        error_type=f"Failure{kind}",
        message=f"page {number} of /srv/pages/{number}.png could not be read within {kind} s",
        details={"page": number, "attempt": 1},
        stack=STACK,
    )


def run(rounds: int) -> Result:
    with serving(FLOOR) as bare, alone("errors") as bus:
        _singly(bus, ERRORS // 2)
        size = len(encode_json(report(ERRORS)))
        measures: dict[str, Callable[[], dict[str, float]]] = {
            "bare": lambda: bare.ask("drained", CALLERS * IN_FLIGHT, size),
            "singly": lambda: _singly(bus, ERRORS),
            "batches": lambda: _in_batches(bus),
        }
        found = alternate(rounds, measures)
    singly = Figure.of("one a call", "errors/s", [each["per_s"] for each in found["singly"]])
    added = Figure.of("memory added by 50,000 errors", "MB", [each["added_mb"] for each in found["singly"]])
    figures = [
        singly,
        Figure.of("one a call, processor time for each", "us", [each["busy_us"] for each in found["singly"]]),
        Figure.of(f"batches of {BATCH}", "errors/s", [each["per_s"] for each in found["batches"]]),
        Figure.of(f"{FLOOR}, the same bytes", "messages/s", [each["per_s"] for each in found["bare"]]),
        added,
    ]
    note = f"{KINDS} groups of {AGENTS} agents, stacks of six frames, 4 callers with 64 in flight each, or with one batch each"
    return Result("Errors taken in", figures, [RATE.judge(singly.median), MEMORY.judge(added.median)], [note])


def _singly(bus: Alone, errors: int) -> dict[str, float]:
    before, busy_before = bus.resident_mb, bus.busy_s
    ends = answered_after(bus.directory, bus.name, api.REPORT_ERROR, report, errors)
    busy_us = (bus.busy_s - busy_before) / errors * 1e6
    return {"per_s": errors / ends[-1], "busy_us": busy_us, "added_mb": bus.resident_mb - before}


def _in_batches(bus: Alone) -> dict[str, float]:
    epoch = time_ns() // 1_000

    def batch(number: int) -> api.ReportErrors:
        """Each from a sender of its own; a spool waits for the answer to each before it sends the next."""
        reports = [report(number * BATCH + each) for each in range(BATCH)]
        return api.ReportErrors(sender=f"mainpc/sender{number}", epoch=epoch, first_seq=1, reports=reports)

    prepared = [batch(number) for number in range(BATCHES)]
    ends = answered_after(bus.directory, bus.name, api.REPORT_ERRORS, prepared.__getitem__, BATCHES, in_flight=1)
    return {"per_s": BATCH * BATCHES / ends[-1]}
