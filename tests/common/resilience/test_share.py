from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.resilience.share import Holdings, Shares, has_share


def filled(total: int, callers: int) -> list[int]:
    """What each holds once all have taken, in turn, as much as they may."""
    held = [0] * callers
    while True:
        before = sum(held)
        for each in range(callers):
            if sum(held) < total and has_share(held[each], sum(held), total):
                held[each] += 1
        if sum(held) == before:
            return held


def test_one_alone_has_three_quarters_and_several_have_equal_parts() -> None:
    assert filled(200, 1) == [150]
    assert filled(700, 2) == [300, 300]
    assert filled(1, 1) == [1]


@given(st.integers(1, 300), st.integers(1, 8))
def test_however_many_fill_it_none_has_more_than_another_and_a_newcomer_finds_room(total: int, callers: int) -> None:
    held = filled(total, callers)
    assert sum(held) <= total
    assert max(held) - min(held) <= 1
    if sum(held) < total:
        assert has_share(0, sum(held), total)


def test_what_is_wanted_counts_with_what_is_held() -> None:
    assert has_share(0, 0, 1_000, 1_000)
    assert not has_share(500, 500, 1_000, 1_001)


def test_holdings_are_counted_by_caller_and_room_and_nothing_is_left_of_who_gave_all_back() -> None:
    holdings = Holdings()
    holdings.change(3, "a", "say")
    holdings.change(1, "a")
    holdings.change(-1, "a", "say")
    assert (holdings.of("a", "say"), holdings.of("a"), holdings.of("b")) == (2, 1, 0)
    holdings.change(-2, "a", "say")
    holdings.change(-1, "a")
    assert holdings._held == {}


def test_work_counts_in_its_line_and_while_it_is_active_with_its_bytes() -> None:
    shares = Shares()
    shares.stand(1, "a", "say")
    shares.weigh(1, "a", 7)
    shares.weigh(1, "a", 5)
    shares.stand(-1, "a", "say")
    shares.weigh(-1, "a", 7)
    assert (shares.waiting.of("a", "say"), shares.active.of("a"), shares.bytes.of("a")) == (0, 1, 5)
