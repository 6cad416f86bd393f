"""A polite caller beside one that floods: how long it waits, and that nobody turns it away."""

from __future__ import annotations

import subprocess
from typing import Final

from benchmarks.contest import Server, alternate, serving
from benchmarks.result import Figure, Result, Target

IN_FLIGHT: Final = 64
LEAST_BOUND_MS: Final = 5.0
QUIET_TIMES: Final = 5.0
REFUSED: Final = Target("rounds in which the polite caller was refused", "at most", 0, "rounds")


def run(rounds: int) -> Result:
    with serving("tandem_native") as server:
        found = alternate(rounds, {"quiet": lambda: _p99_ms(server), "flooded": lambda: _flooded_p99_ms(server)})
    served = {name: [each for each in times if each is not None] for name, times in found.items()}
    refused = REFUSED.judge(sum(len(found[name]) - len(served[name]) for name in found))
    if not served["quiet"] or not served["flooded"]:
        return Result(_TITLE, [], [refused])
    quiet, flooded = (Figure.of(f"{name} p99", "ms", served[name]) for name in ("quiet", "flooded"))
    bound = max(QUIET_TIMES * quiet.median, LEAST_BOUND_MS)
    waits = Target("polite p99 beside 64 in flight (the larger of 5x quiet and 5 ms)", "at most", bound, "ms")
    note = "the flooding and the polite client share the client's core, which the polite one pays for too"
    return Result(_TITLE, [quiet, flooded], [waits.judge(flooded.median), refused], [note])


_TITLE: Final = "A polite caller beside a flooding one"


def _p99_ms(server: Server) -> float | None:
    try:
        return server.ask("sequential")["p99_us"] / 1_000
    except subprocess.CalledProcessError:
        return None


def _flooded_p99_ms(server: Server) -> float | None:
    with server.flooded(IN_FLIGHT):
        return _p99_ms(server)
