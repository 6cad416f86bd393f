from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ids import MAX_WIRE_INT
from common.vram.fencing import BEFORE_ALL, COUNTERS, EPOCHS, EpochSpent, Fence, parse

fences = st.builds(Fence, st.integers(0, EPOCHS - 1), st.integers(0, COUNTERS - 1))


@given(fences)
def test_a_token_names_its_place_and_fits_every_json_reader(fence: Fence) -> None:
    assert parse(fence.token) == fence
    assert 0 <= fence.token <= MAX_WIRE_INT


@given(fences, fences)
def test_tokens_have_the_order_of_their_places(one: Fence, other: Fence) -> None:
    assert (one < other) == (one.token < other.token)


def test_tokens_rise_within_an_epoch_and_over_epochs() -> None:
    first = BEFORE_ALL.next_epoch().next()
    assert BEFORE_ALL.token < first.token < first.next().token < first.next_epoch().next().token


def test_an_epoch_opens_before_the_first_of_its_tokens() -> None:
    assert BEFORE_ALL.next_epoch() == Fence(1, 0)
    assert BEFORE_ALL.next_epoch().next() == Fence(1, 1)
    assert Fence(EPOCHS - 2, 7).next_epoch() == Fence(EPOCHS - 1, 0)


def test_a_spent_epoch_asks_for_a_new_one() -> None:
    with pytest.raises(EpochSpent, match="epoch 7"):
        Fence(7, COUNTERS - 1).next()
    assert Fence(7, COUNTERS - 2).next() == Fence(7, COUNTERS - 1)


def test_the_last_epoch_has_no_successor() -> None:
    with pytest.raises(OverflowError):
        Fence(EPOCHS - 1, 0).next_epoch()


@pytest.mark.parametrize("token", [-1, MAX_WIRE_INT + 1])
def test_what_is_no_token_is_not_parsed(token: int) -> None:
    with pytest.raises(ValueError, match="not a fencing token"):
        parse(token)
