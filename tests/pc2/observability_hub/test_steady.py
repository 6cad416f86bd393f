from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pc2.observability_hub import steady
from pc2.observability_hub.steady import SEVERITY, Opinion, Steady

WELL, BAD, WORSE = Opinion("healthy"), Opinion("unhealthy", "it died"), Opinion("unreachable", "silent")


def test_it_turns_to_the_worse_at_once_and_to_the_better_after_a_while() -> None:
    one = Steady()
    assert one.consider(WELL, 0.0, 100.0) == "unknown"
    assert one.consider(BAD, 1.0, 101.0) == "healthy"
    assert one.consider(WORSE, 1.1, 101.1) == "unhealthy"
    assert one.consider(WELL, 2.9, 102.9) is None
    assert one.opinion == WORSE
    assert one.consider(WELL, 1.0 + steady.HOLD_S, 103.0) == "unreachable"
    assert (one.since, one.since_wall) == (3.0, 103.0)


def test_a_new_reason_is_no_change_and_shows() -> None:
    one = Steady()
    one.consider(BAD, 0.0, 0.0)
    assert one.consider(Opinion("unhealthy", "it died again"), 5.0, 5.0) is None
    assert (one.opinion.reason, one.since) == ("it died again", 0.0)


def test_one_that_comes_and_goes_has_to_stay_longer_each_time() -> None:
    one, at, waits = Steady(), 1_000.0, []
    for _ in range(7):
        one.consider(BAD, at, at)
        waits.append(one.free_at(at) - at)
        at = one.free_at(at)
        assert one.consider(WELL, at, at) == "unhealthy"
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0]
    assert max(waits) == steady.MOST_HOLD_S


def test_old_turns_are_forgiven() -> None:
    one = Steady()
    one.consider(BAD, 0.0, 0.0)
    one.consider(WELL, 10.0, 10.0)
    one.consider(BAD, 10.0 + steady.FLAP_S, 0.0)
    assert one.free_at(70.0) == 72.0


VERDICTS = st.sampled_from([WELL, BAD, WORSE, Opinion("degraded", "slow"), Opinion("unknown")])


@given(st.lists(st.tuples(VERDICTS, st.floats(0, 3)), max_size=200))
def test_no_verdict_flaps_faster_than_the_bound(steps: list[tuple[Opinion, float]]) -> None:
    one, now, fell_at = Steady(), 0.0, []
    for opinion, pause_s in steps:
        now += pause_s
        was = one.consider(opinion, now, now)
        if was is not None and SEVERITY[was] == 0 and SEVERITY[one.opinion.verdict] > 0:
            fell_at.append(now)
        assert SEVERITY[one.opinion.verdict] >= SEVERITY[opinion.verdict]
    assert all(after - before >= steady.HOLD_S for before, after in pairwise(fell_at))
    assert len(fell_at) <= 6 + now / steady.HOLD_S / 4
