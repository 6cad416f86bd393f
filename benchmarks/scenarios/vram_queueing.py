"""How long requests wait for their model on real traces, with slots, loads and evictions played through."""

from __future__ import annotations

from statistics import mean
from typing import Final

from benchmarks.result import Figure, Result, Target, Verdict
from benchmarks.vram.comparing import PEERS, TANDEM, best_peer, figure, waits
from benchmarks.vram.traces import SEEDS, TRACES, requests, sizes

MEAN: Final = {
    trace: Target(f"mean wait for a model on {trace} against the best peer rule", "at most", 1.05, "x")
    for trace in TRACES
}
P99: Final = {
    trace: Target(f"p99 wait for a model on {trace} against the best peer rule", "at most", 1.15, "x")
    for trace in TRACES
}
UNSERVED: Final = Target("requests of both traces that were never served", "at most", 0, "requests")


def run(rounds: int) -> Result:
    figures: list[Figure] = []
    verdicts: list[Verdict] = []
    unserved = 0
    for trace in TRACES:
        found = waits([(requests(trace), sizes(seed)) for seed in SEEDS])
        means = {name: [each.mean_s for each in found[name]] for name in found}
        p99s = {name: [each.p99_s for each in found[name]] for name in found}
        verdicts += (
            MEAN[trace].judge(mean(means[TANDEM]) / best_peer(means)),
            P99[trace].judge(mean(p99s[TANDEM]) / best_peer(p99s)),
        )
        unserved += sum(each.unserved for each in found[TANDEM])
        for name in (TANDEM, *PEERS):
            figures += (
                figure(f"{trace}: {name}, mean wait", "s", means[name]),
                figure(f"{trace}: {name}, p99", "s", p99s[name]),
                figure(f"{trace}: {name}, loads", "loads", [float(each.loads) for each in found[name]]),
            )
    note = "means over five permutations of the models' sizes; 8 slots a model, one load at a time on a card"
    return Result("VRAM queueing: seconds until served", figures, [*verdicts, UNSERVED.judge(unserved)], [note])
