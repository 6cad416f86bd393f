from __future__ import annotations

import pytest

from benchmarks.vram.planning import NOW, Timed, chosen_us, planner, turns_us, weighed_us
from common.vram.amount import GIB
from common.vram.placement import Wish


def test_with_room_a_request_fits_and_without_it_some_go() -> None:
    wish = Wish("asked", 2 * GIB)
    fits, evicts = (planner(4, 24, full=full).fleet for full in (False, True))
    assert fits.fit(wish, NOW, (), ()) is not None
    assert evicts.fit(wish, NOW, (), ()) is None
    room = evicts.room(wish, 50, NOW, (), ())
    assert room is not None
    assert room.victims


@pytest.mark.parametrize("timed", [chosen_us, turns_us, weighed_us])
def test_every_decision_is_timed_and_leaves_the_planner_as_it_was(timed: Timed) -> None:
    made = planner(2, 12, full=True)
    before = made.fleet.candidates(NOW)
    took = timed(made, 12.0, 30)
    assert len(took) == 30
    assert took == sorted(took)
    assert took[0] > 0
    assert made.fleet.candidates(NOW) == before
