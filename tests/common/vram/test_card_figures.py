from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from common.api.gpus import Card
from common.vram.amount import GIB, MIB
from common.vram.card_figures import figures
from common.vram.cards import CardSample, CardVitals, ProcessId, ProcessUse
from common.vram.ledger import DEFAULT, Claim, account

TOTAL = 24 * GIB


def card(*uses: tuple[int, int | None], free: int | None = None, problem: str = "") -> CardSample:
    held = sum(n or 0 for _, n in uses)
    return CardSample(
        host="mainpc",
        index=0,
        uuid="GPU-a",
        name="card",
        total_bytes=TOTAL,
        free_bytes=TOTAL - held if free is None else free,
        used_bytes=held,
        processes=tuple(ProcessUse(pid, 1, "python", n) for pid, n in uses),
        problem=problem,
    )


def shown(sample: CardSample, *leased: tuple[int, int]) -> Card:
    claims = [Claim(f"l{n}", size, ProcessId(pid, 1), 0) for n, (pid, size) in enumerate(leased)]
    drawn = account(sample, claims, {})
    return figures(sample, drawn, DEFAULT, drawn.problem)


def summed(found: Card) -> int:
    return found.free_bytes + found.measured_bytes + sum(each.bytes for each in found.strangers) + found.nameless_bytes


def test_free_measured_strangers_and_nameless_are_the_whole_card() -> None:
    found = shown(card((1, 5 * GIB), (7, 3 * GIB), free=15 * GIB), (1, 6 * GIB))
    assert (found.free_bytes, found.measured_bytes, found.nameless_bytes) == (15 * GIB, 5 * GIB, GIB)
    assert [each.bytes for each in found.strangers] == [3 * GIB]
    assert (found.leased_bytes, found.guard_bytes, summed(found)) == (6 * GIB, 256 * MIB, TOTAL)


def test_what_a_card_draws_and_what_slows_it_is_shown() -> None:
    vitals = CardVitals(power_w=350.0, power_limit_w=400.0, throttled=("hw-thermal",))
    found = shown(msgspec.structs.replace(card(), vitals=vitals, mig=True))
    assert (found.power_w, found.power_limit_w, found.throttled, found.mig) == (350.0, 400.0, ["hw-thermal"], True)


def test_a_driver_that_contradicts_itself_shows_less_free() -> None:
    found = shown(card((1, 20 * GIB), (7, 8 * GIB), free=10 * GIB), (1, 6 * GIB))
    assert (found.free_bytes, found.measured_bytes) == (0, 20 * GIB)
    assert [each.bytes for each in found.strangers] == [4 * GIB]
    assert summed(found) == TOTAL


def test_of_a_card_that_was_not_measured_nothing_is_known() -> None:
    found = shown(card(problem="fell off the bus", free=3), (1, 6 * GIB))
    assert (found.free_bytes, found.measured_bytes, found.nameless_bytes, found.schedulable) == (0, 0, TOTAL, False)


sizes = st.integers(0, 30 * GIB)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.none() | sizes), max_size=6),
    st.lists(st.tuples(st.integers(1, 6), sizes), max_size=5),
    st.integers(-GIB, 40 * GIB),
    st.sampled_from(["", "", "lost"]),
)
def test_the_figures_add_up_whatever_the_driver_says(
    uses: list[tuple[int, int | None]], leased: list[tuple[int, int]], free: int, problem: str
) -> None:
    found = shown(card(*uses, free=free, problem=problem), *leased)
    assert summed(found) == found.total_bytes
    assert min(found.free_bytes, found.measured_bytes, found.nameless_bytes) >= 0
    assert all(each.bytes >= 0 for each in found.strangers)
    assert found.grantable_bytes <= max(0, found.free_bytes - found.guard_bytes)
