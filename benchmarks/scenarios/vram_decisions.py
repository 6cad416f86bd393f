"""How fast it is decided where a request for VRAM goes, and who has to go for it: by ResourceManager, and by a card's host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.contest import alternate
from benchmarks.result import Figure, Result, Target
from benchmarks.vram import deciding, granting, planning

DECISIONS: Final = 5_000
TURNS: Final = 1_000
FULLY_WEIGHED: Final = 20
FEW: Final = ((2, 12), (4, 24), (16, 128))
"""Cards and leases."""
MANY: Final = (1_000, 10_000)
FIT_GIB: Final = 6.0
EVICTION_GIB: Final = 12.0

FIT: Final = Target("a lease that fits: ResourceManager's planner decides, p50 on 2 to 16 cards", "at most", 5, "us")
EVICTION: Final = Target("an eviction: ResourceManager's planner decides, p50 on 2 to 16 cards", "at most", 20, "us")
LARGE: Final = Target(
    "an eviction among 1,000 cards with 10,000 leases: ResourceManager's planner decides, p99", "at most", 250, "us"
)
TABLE_FIT: Final = Target("a lease that fits: its host's table decides, p50 on 2 to 16 cards", "at most", 5, "us")
LINE: Final = Target("an eviction: the line of managed models decides, p50 on 2 to 16 cards", "at most", 20, "us")

NOTES: Final = (
    "before each decision of the planner a lease is told to have been used, so that prices are drawn up anew; 30 % of the leases"
    " are in use",
    "a decision is the card, and for an eviction who goes from it; ResourceManager's turn is all that is done for the request"
    " until its intent is committed, a table's its facts and the reply, and told the rows, the event and the receipt as well",
)


def run(rounds: int) -> Result:
    sizes = (*FEW, MANY)
    measures: dict[str, Callable[[], dict[str, float]]] = {}
    for full, what, most_gib in ((False, "fits", FIT_GIB), (True, "eviction", EVICTION_GIB)):
        for cards, leases in sizes:
            line = deciding.fleet(cards, leases, full=full)
            planner = planning.planner(cards, leases, full=full)
            few = TURNS if cards < MANY[0] else FULLY_WEIGHED
            measures |= {
                f"planner: {what}, {cards} cards": partial(
                    _shares, partial(planning.chosen_us, planner, most_gib, DECISIONS)
                ),
                f"planner's turn: {what}, {cards} cards": partial(
                    _shares, partial(planning.turns_us, planner, most_gib, TURNS)
                ),
                f"planner, every card weighed for people: {what}, {cards} cards": partial(
                    _shares, partial(planning.weighed_us, planner, most_gib, few)
                ),
                f"line: {what}, {cards} cards": partial(_shares, partial(deciding.took_us, line, most_gib, DECISIONS)),
            }
    for cards, leases in FEW:
        table = granting.table(cards, leases)
        measures |= {
            f"table: fits, {cards} cards": partial(_shares, partial(granting.chosen_us, cards, leases, DECISIONS)),
            f"table's turn: fits, {cards} cards": partial(_shares, partial(granting.decided_us, table, DECISIONS)),
            f"table's turn, told: fits, {cards} cards": partial(_shares, partial(granting.told_us, table, DECISIONS)),
        }
    found = alternate(rounds, measures)
    figures = {
        f"{name} {share}": Figure.of(f"{name}, {share}", "us", [each[share] for each in found[name]])
        for name in measures
        for share in ("p50", "p99")
    }

    def worst(what: str) -> float:
        return max(figures[f"{what}, {cards} cards p50"].median for cards, _ in FEW)

    verdicts = [
        FIT.judge(worst("planner: fits")),
        EVICTION.judge(worst("planner: eviction")),
        LARGE.judge(figures[f"planner: eviction, {MANY[0]} cards p99"].median),
        TABLE_FIT.judge(worst("table: fits")),
        LINE.judge(worst("line: eviction")),
    ]
    return Result("VRAM decisions", list(figures.values()), verdicts, list(NOTES))


def _shares(timed: Callable[[], list[float]]) -> dict[str, float]:
    took = timed()
    return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}
