"""What encryption costs a busy caller."""

from __future__ import annotations

from typing import Final

from benchmarks.contest import contest
from benchmarks.result import Figure, Result, Target

IN_FLIGHT: Final = 64
PLAIN, CURVE = "tandem_native", "tandem_curve"
TARGET: Final = Target("calls/s that CURVE costs at 64 in flight", "at most", 35.0, "%")


def run(rounds: int) -> Result:
    found = contest(rounds, (PLAIN, CURVE), "pipelined", IN_FLIGHT)
    rate = {peer: Figure.of(peer, "calls/s", [each["per_s"] for each in each_of]) for peer, each_of in found.items()}
    lost = 100 * (1 - rate[CURVE].median / rate[PLAIN].median)
    note = "the caller is known by its key in the keyring, and every call is judged by it"
    return Result("CURVE at 64 calls in flight, 200 bytes", list(rate.values()), [TARGET.judge(lost)], [note])
