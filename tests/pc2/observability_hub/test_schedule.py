from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pc2.observability_hub import schedule
from pc2.observability_hub.schedule import Pace


class Dice(random.Random):
    def random(self) -> float:
        return 0.5


def test_one_that_is_well_for_long_is_asked_less_and_less_often_up_to_a_bound() -> None:
    pace = Pace()
    pauses = []
    for _ in range(20):
        pace.answered(0.001)
        pauses.append(pace.pause_s(Dice()))
    assert pauses == sorted(pauses)
    assert pauses[0] < schedule.SLOW_S / 2
    assert pace.interval_s == schedule.SLOW_S


def test_one_that_is_missed_is_asked_again_at_once_and_no_more_in_a_hurry_after_a_while() -> None:
    pace = Pace(interval_s=schedule.SLOW_S)
    pace.missed()
    assert pace.interval_s == schedule.QUICK_S
    for _ in range(schedule.DOWN_AFTER):
        pace.missed()
    assert pace.interval_s == schedule.LONG_DOWN_S


def test_one_that_is_back_is_looked_at_closely_for_a_while() -> None:
    pace = Pace(interval_s=schedule.SLOW_S)
    pace.missed()
    pace.answered(0.001)
    assert pace.interval_s == schedule.FRESH_S
    pace.interval_s = schedule.SLOW_S
    pace.hurry()
    assert pace.interval_s == schedule.FRESH_S


def test_a_slow_agent_is_waited_for_longer_than_a_quick_one_and_a_new_one_long_enough() -> None:
    slow, quick = Pace(), Pace()
    assert slow.patience_s == schedule.FIRST_PATIENCE_S
    for _ in range(50):
        slow.answered(0.4)
        quick.answered(0.001)
    assert quick.patience_s == schedule.LEAST_PATIENCE_S
    assert 0.4 < slow.patience_s < schedule.MOST_PATIENCE_S


def test_a_stopped_process_is_seen_to_be_within_two_seconds() -> None:
    confirmed_s = schedule.SLOW_S + 2 * schedule.LEAST_PATIENCE_S + schedule.QUICK_S
    assert confirmed_s < 1.8


@given(st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=60), st.randoms())
def test_every_pause_and_every_patience_is_bounded(ends: list[float | None], rng: random.Random) -> None:
    pace = Pace()
    for latency_s in ends:
        if latency_s is None:
            pace.missed()
        else:
            pace.answered(latency_s)
        assert 0.9 * schedule.QUICK_S <= pace.pause_s(rng) <= max(schedule.SLOW_S, schedule.LONG_DOWN_S)
        assert schedule.LEAST_PATIENCE_S <= pace.patience_s <= schedule.MOST_PATIENCE_S
