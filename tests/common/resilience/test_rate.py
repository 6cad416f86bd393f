from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.resilience.rate import RateLimit, RateSettings

KNOBS = RateSettings(per_s=10.0, burst=5.0, identities=3)


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    limit = RateLimit(KNOBS)
    assert [limit.admit("a", 100.0) for _ in range(5)] == [None] * 5
    assert limit.admit("a", 100.0) == pytest.approx(0.1)
    assert limit.admit("a", 100.1) is None
    assert limit.admit("a", 100.1) is not None


def test_one_identity_does_not_spend_anothers() -> None:
    limit = RateLimit(KNOBS)
    while limit.admit("flood", 0.0) is None:
        pass
    assert limit.admit("polite", 0.0) is None


def test_a_refusal_costs_nothing() -> None:
    limit = RateLimit(KNOBS)
    for _ in range(100):
        limit.admit("a", 0.0)
    assert limit.admit("a", 0.1) is None


def test_a_cost_above_the_burst_is_charged_as_a_whole_burst() -> None:
    limit = RateLimit(KNOBS)
    assert limit.admit("a", 0.0, cost=1000.0) is None
    assert limit.admit("a", 0.0, cost=1000.0) == pytest.approx(0.5)


def test_the_identity_not_heard_of_for_longest_is_forgotten_first() -> None:
    limit = RateLimit(KNOBS)
    for identity in ("a", "b", "c"):
        limit.admit(identity, 0.0, cost=5.0)
    limit.admit("a", 0.1)
    limit.admit("d", 0.1)
    assert len(limit) == 3
    assert limit.admit("a", 0.1) is not None
    assert limit.admit("b", 0.1) is None


arrivals = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 0.5), st.floats(0.1, 9.0)), max_size=80)


@given(arrivals)
def test_admitted_cost_never_exceeds_burst_and_rate_in_any_span(arrivals: list[tuple[str, float, float]]) -> None:
    limit, now = RateLimit(KNOBS), 0.0
    admitted: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}
    for identity, wait_s, cost in arrivals:
        now += wait_s
        if limit.admit(identity, now, cost) is None:
            admitted[identity].append((now, min(cost, 5.0)))
    for passed in admitted.values():
        for first in range(len(passed)):
            spent = 0.0
            for at, cost in passed[first:]:
                spent += cost
                assert spent <= 5.0 + 10.0 * (at - passed[first][0]) + 1e-3


@given(arrivals)
def test_one_who_waits_as_told_is_admitted(arrivals: list[tuple[str, float, float]]) -> None:
    limit, now = RateLimit(KNOBS), 1_000_000.0
    for identity, wait_s, cost in arrivals:
        now += wait_s
        retry_in_s = limit.admit(identity, now, cost)
        if retry_in_s is not None:
            now += retry_in_s
            assert limit.admit(identity, now, cost) is None
