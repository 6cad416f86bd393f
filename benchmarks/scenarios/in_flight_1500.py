"""Fifteen hundred calls under way on one connection: none may fail."""

from __future__ import annotations

import subprocess
from typing import Final

from benchmarks.contest import alternate, serving
from benchmarks.result import Figure, Result, Target

IN_FLIGHT: Final = 1_500
TARGET: Final = Target("rounds with a failed call", "at most", 0, "rounds")


def run(rounds: int) -> Result:
    with serving("tandem_native") as server:

        def rate() -> float | None:
            try:
                return server.ask("pipelined", IN_FLIGHT)["per_s"]
            except subprocess.CalledProcessError:
                return None

        found = alternate(rounds, {"tandem_native": rate})["tandem_native"]
    good = [each for each in found if each is not None]
    figures = [Figure.of("tandem_native", "calls/s", good)] if good else []
    return Result("1,500 calls in flight, 200 bytes", figures, [TARGET.judge(len(found) - len(good))])
