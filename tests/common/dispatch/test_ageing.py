from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.dispatch.ageing import effective_priority, rank

PRIORITIES = st.integers(0, 100)
ARRIVALS = st.integers(0, 4_000).map(lambda quarter: quarter / 4)
AGEING = st.sampled_from([0.5, 1.0, 2.0, 64.0])


def overtaken_until(priority: int, queued_at: float, ageing_s: float) -> float:
    """From here on nobody who arrives gets ahead, even with priority 100: the bound of the proof in ageing.py."""
    return queued_at + (100 - priority) * ageing_s


def test_a_point_is_gained_every_ageing_s() -> None:
    assert effective_priority(50, 0.0, 2.0) == 50
    assert effective_priority(50, 20.0, 2.0) == 60


@given(PRIORITIES, PRIORITIES, ARRIVALS, ARRIVALS, AGEING, st.integers(0, 10_000))
def test_rank_orders_as_effective_priority_does_at_every_moment(
    p: int, q: int, arrived_p: float, arrived_q: float, ageing_s: float, later: int
) -> None:
    now = max(arrived_p, arrived_q) + later
    ahead = effective_priority(p, now - arrived_p, ageing_s) - effective_priority(q, now - arrived_q, ageing_s)
    behind = rank(p, arrived_p, ageing_s) - rank(q, arrived_q, ageing_s)
    assert abs(ahead * ageing_s + behind) < 1e-6


@given(PRIORITIES, ARRIVALS, AGEING, PRIORITIES, st.integers(0, 10_000))
def test_nobody_overtakes_once_the_bound_has_passed(
    priority: int, queued_at: float, ageing_s: float, other: int, later: int
) -> None:
    arrives = overtaken_until(priority, queued_at, ageing_s) + later
    assert rank(other, arrives, ageing_s) >= rank(priority, queued_at, ageing_s)


@given(st.lists(PRIORITIES, max_size=60), PRIORITIES)
def test_the_least_urgent_is_served_under_an_endless_stream_of_urgent_ones(urgent: list[int], floor: int) -> None:
    """One urgent wish arrives and one wish is served each second: the waiting one goes within the bound, at 1 s a point."""
    waiting = [(rank(floor, 0.0, 1.0), -1)]
    bound = int(overtaken_until(floor, 0.0, 1.0))
    served_at = None
    for second in range(1, 103):
        priority = urgent[second % len(urgent)] if urgent else 100
        waiting.append((rank(priority, float(second), 1.0), second))
        waiting.sort()
        if waiting.pop(0)[1] == -1:
            served_at = second
            break
    assert served_at is not None
    assert served_at <= bound + 1
