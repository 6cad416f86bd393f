from __future__ import annotations

import pytest

from common.errors import Internal
from pc2.resource_manager.tasks.loan import NEXT, Loan, Move, State


def loan(model: str = "a", host: str = "", **fields: object) -> Loan:
    return Loan(model, State.ASKING, 3, host, 0.0, 0.0, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", Move)
def test_a_move_leads_where_the_table_says_and_another_tells_the_loans_story(state: State, move: Move) -> None:
    it = Loan("a", state, 3, "", 0.0, 0.0)
    if (state, move) in NEXT:
        it.move(move)
        assert it.state is NEXT[state, move]
    else:
        with pytest.raises(Internal, match=f"the loan of a cannot {move}: it is {state}, number 3"):
            it.move(move)


@pytest.mark.parametrize(
    ("at", "host", "there"),
    [("pc2", "", True), ("pc2", "mainpc", True), ("mainpc", "", False), ("", "mainpc", False), ("", "", True)],
)
def test_it_may_be_where_it_waits_else_where_it_was_asked_for(at: str, host: str, there: bool) -> None:
    assert loan(host=host, at=at).may_be_at("pc2") is there


def test_it_is_in_the_way_of_who_waits_on_its_host_for_what_it_has_and_not_of_itself() -> None:
    one = loan(host="pc2")
    assert one.is_in_the_way_of(loan("b", "pc2"))
    assert not one.is_in_the_way_of(loan("b", "mainpc"))
    assert not one.is_in_the_way_of(loan("b", "pc2", for_card=False, for_host=True))
    assert one.is_in_the_way_of(loan("a", "pc2", for_card=False))
    assert not one.is_in_the_way_of(one)
