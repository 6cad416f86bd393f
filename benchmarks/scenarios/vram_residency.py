"""Which models stay loaded: seconds spent loading on real traces against a schedule that knows the future."""

from __future__ import annotations

from statistics import mean
from typing import Final

from benchmarks.result import Figure, Result, Target, Verdict
from benchmarks.vram.comparing import PEERS, TANDEM, figure, reloads, thinned
from benchmarks.vram.traces import NEAR_OPTIMAL, SEEDS, TRACES, reference, requests, sizes

BOUNDS: Final = {"azure23": 1.26, "servegen": 1.29}
TARGETS: Final = {
    trace: Target(f"loading against a schedule that knows the future, on {trace}", "at most", bound, "x")
    for trace, bound in BOUNDS.items()
}


def run(rounds: int) -> Result:
    figures: list[Figure] = []
    verdicts: list[Verdict] = []
    for trace in TRACES:
        optimal = reference(trace, NEAR_OPTIMAL, "l1_reload_s")
        found = reloads([(requests(trace), sizes(seed)) for seed in SEEDS])
        for name in (TANDEM, *PEERS):
            ratios = [spent / best for spent, best in zip(found[name], optimal, strict=True)]
            figures.append(figure(f"{trace}: {name}", "x", ratios))
            if name == TANDEM:
                verdicts.append(TARGETS[trace].judge(mean(ratios)))
        others = reloads([thinned(requests(trace), sizes(0), seed) for seed in SEEDS])
        best = min(PEERS, key=lambda name: mean(others[name]))
        against = [ours / theirs for ours, theirs in zip(others[TANDEM], others[best], strict=True)]
        figures.append(figure(f"{trace}, thinned to half, sizes dealt anew: {TANDEM} against {best}", "x", against))
    note = "means over five permutations of the models' sizes, with the least and the most of them; nothing here is by chance"
    return Result("VRAM residency: seconds of loading against near-optimal", figures, verdicts, [note])
