"""How full a cluster of 1,213 nodes gets before it turns requests for VRAM away."""

from __future__ import annotations

from typing import Final

from benchmarks.result import Result, Target
from benchmarks.vram.comparing import figure
from benchmarks.vram.placing import allocated
from benchmarks.vram.traces import SEEDS

FULL: Final = Target("GPU share allocated when the openb cluster saturates", "at least", 95.4, "%")
"""What the authors of the trace publish for their own rule, FGD."""


def run(rounds: int) -> Result:
    full = figure("tightest fit, by VRAM alone", "%", [100 * allocated(seed) for seed in SEEDS])
    note = "mean over five orders of arrival; the trace's authors publish 93.1 for best fit and 95.4 for FGD"
    return Result("VRAM placement: how full a cluster gets", [full], [FULL.judge(full.median)], [note])
