"""Sixty-four calls under way on one connection: what one busy caller gets through."""

from __future__ import annotations

from typing import Final

from benchmarks.contest import contest
from benchmarks.result import Figure, Result, Target

IN_FLIGHT: Final = 64
OURS, BARE, GRPC = "tandem_native", "pyzmq_router_dealer", "grpc_aio"
PEERS: Final = (OURS, BARE, GRPC)
AGAINST_BARE: Final = Target(
    "native calls against a bare blocking ROUTER/DEALER echo with *_multipart", "at least", 1.0, "x"
)
AGAINST_GRPC: Final = Target("native calls against grpc.aio", "at least", 8.0, "x")


def run(rounds: int) -> Result:
    found = contest(rounds, PEERS, "pipelined", IN_FLIGHT)
    rate = {peer: Figure.of(peer, "calls/s", [each["per_s"] for each in found[peer]]) for peer in PEERS}
    verdicts = [
        AGAINST_BARE.judge(rate[OURS].median / rate[BARE].median),
        AGAINST_GRPC.judge(rate[OURS].median / rate[GRPC].median),
    ]
    note = "Tandem's client sends the small calls of one turn of its loop in bundles of up to 32; its peers send each alone"
    return Result("64 calls in flight, 200 bytes", list(rate.values()), verdicts, [note])
