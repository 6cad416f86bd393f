"""One call after the other: what a single caller waits."""

from __future__ import annotations

from typing import Final

from benchmarks.contest import contest
from benchmarks.result import Figure, Result, Target

FLOOR: Final = "pyzmq_req_rep"
PEERS: Final = (FLOOR, "tandem_native", "tandem_sync", "pyzmq_router_dealer", "grpc_aio")
TARGET: Final = Target("p50 of a native call against a bare blocking REQ/REP echo", "at most", 1.4, "x")


def run(rounds: int) -> Result:
    found = contest(rounds, PEERS, "sequential")
    p50 = {peer: Figure.of(f"{peer} p50", "us", [each["p50_us"] for each in found[peer]]) for peer in PEERS}
    p99 = {peer: Figure.of(f"{peer} p99", "us", [each["p99_us"] for each in found[peer]]) for peer in PEERS}
    figures = [figure for peer in PEERS for figure in (p50[peer], p99[peer])]
    verdict = TARGET.judge(p50["tandem_native"].median / p50[FLOOR].median)
    return Result("Sequential calls, 200 bytes", figures, [verdict])
