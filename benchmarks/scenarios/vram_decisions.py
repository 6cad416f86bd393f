"""How fast it is decided where a request for VRAM goes, and who has to go for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.contest import alternate
from benchmarks.result import Figure, Result, Target
from benchmarks.vram.deciding import fleet, took_us, weighed_us
from common.vram.residency import Residency

DECISIONS: Final = 5_000
FEW: Final = ((2, 12), (4, 24), (16, 128))
"""Cards and leases."""
MANY: Final = (1_000, 10_000)
FIT_GIB: Final = 6.0
EVICTION_GIB: Final = 12.0

FIT: Final = Target("a lease that fits is decided, p50 on 2 to 16 cards", "at most", 5, "us")
EVICTION: Final = Target("a lease with an eviction is decided, p50 on 2 to 16 cards", "at most", 20, "us")
LARGE: Final = Target("an eviction among 1,000 cards with 10,000 leases, p99", "at most", 250, "us")


def run(rounds: int) -> Result:
    fits = {cards: fleet(cards, leases, full=False) for cards, leases in (*FEW, MANY)}
    full = {cards: fleet(cards, leases, full=True) for cards, leases in (*FEW, MANY)}
    measures: dict[str, Callable[[], dict[str, float]]] = {
        f"{what}, {cards} cards": partial(_shares, took_us, fleets[cards], most_gib, DECISIONS)
        for what, fleets, most_gib in (("fits", fits, FIT_GIB), ("eviction", full, EVICTION_GIB))
        for cards in fleets
    }
    measures["weighed in full for a receipt, 4 cards"] = partial(
        _shares, weighed_us, full[4], EVICTION_GIB, DECISIONS // 10
    )
    found = alternate(rounds, measures)
    figures = {
        f"{name} {share}": Figure.of(f"{name}, {share}", "us", [each[share] for each in found[name]])
        for name in measures
        for share in ("p50", "p99")
    }
    few = [cards for cards, _ in FEW]
    verdicts = [
        FIT.judge(max(figures[f"fits, {cards} cards p50"].median for cards in few)),
        EVICTION.judge(max(figures[f"eviction, {cards} cards p50"].median for cards in few)),
        LARGE.judge(figures[f"eviction, {MANY[0]} cards p99"].median),
    ]
    note = "between two decisions a lease is used, so that prices are drawn up anew; 30 % of the leases are in use"
    return Result("VRAM decisions", list(figures.values()), verdicts, [note])


def _shares(
    timed: Callable[[Residency, float, int], list[float]], residency: Residency, most_gib: float, decisions: int
) -> dict[str, float]:
    took = timed(residency, most_gib, decisions)
    return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}
