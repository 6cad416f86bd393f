from __future__ import annotations

from typing import get_args

import pytest

from common.api.models import ModelState
from common.errors import Internal
from common.supervisor.models.states import FIRST_PAUSE_S, LONGEST_PAUSE_S, NEXT, ModelLife, Move, pause_s

WAY: dict[ModelState, list[Move]] = {
    "absent": [],
    "queued": [Move.WANT],
    "loading": [Move.WANT, Move.BEGIN],
    "ready": [Move.WANT, Move.BEGIN, Move.PROVE],
    "expiring": [Move.WANT, Move.BEGIN, Move.PROVE, Move.LEAVE],
    "parked": [Move.WANT, Move.BEGIN, Move.PROVE, Move.LEAVE, Move.SLEEP],
    "failed": [Move.WANT, Move.BEGIN, Move.FAIL],
}


def life(state: ModelState) -> ModelLife:
    made = ModelLife("m", 0.0)
    for move in WAY[state]:
        made.move(move, 1.0)
    assert made.state == state
    return made


@pytest.mark.parametrize("move", Move)
@pytest.mark.parametrize("state", get_args(ModelState))
def test_every_move_leads_where_the_table_says_or_raises_with_the_story(state: ModelState, move: Move) -> None:
    made = life(state)
    following = NEXT.get((state, move))
    if following is not None:
        assert made.move(move, 2.0) == state
        assert (made.state, made.since) == (following, 2.0)
        return
    story = "1.000 absent --want--> queued" if WAY[state] else "before: nothing"
    with pytest.raises(Internal, match=rf"model m is {state}, which knows no {move}; .*{story}"):
        made.move(move, 2.0)
    assert made.state == state


def test_what_expires_is_never_ready_again_without_a_new_load() -> None:
    assert {NEXT[state, move] for state, move in NEXT if state == "expiring"} == {"parked", "absent", "failed"}


def test_failures_in_a_row_are_paused_for_ever_longer_and_forgiven_by_a_load() -> None:
    made, waits = ModelLife("m", 0.0), []
    for _ in range(9):
        made.move(Move.WANT, 0.0)
        made.fail("out of memory", 10.0)
        waits.append(made.retry_at - 10.0)
    assert waits[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert waits[-1] == LONGEST_PAUSE_S
    assert made.problem == "out of memory"
    assert not made.may_retry(10.0)
    assert made.may_retry(10.0 + LONGEST_PAUSE_S)
    made.move(Move.WANT, 80.0)
    made.move(Move.BEGIN, 80.0)
    made.move(Move.PROVE, 80.0)
    assert (made.failures, made.problem, pause_s(0)) == (0, "", 0.0)
