from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.resilience.bulkhead import Bulkhead, BulkheadSettings

KNOBS = BulkheadSettings(total=100, per_identity=60, guaranteed=4, reserved=20)


def fill(bulkhead: Bulkhead, identity: str) -> int:
    entered = 0
    while bulkhead.enter(identity):
        entered += 1
    return entered


def test_one_alone_takes_no_more_than_half_of_what_is_shared() -> None:
    assert fill(Bulkhead(KNOBS), "flood") == 40
    assert fill(Bulkhead(msgspec.structs.replace(KNOBS, per_identity=30)), "flood") == 30


def test_fifteen_hundred_calls_of_one_connection_fit_by_default() -> None:
    bulkhead = Bulkhead()
    assert all(bulkhead.enter("busy") for _ in range(1500))


def test_a_polite_caller_enters_beside_floods() -> None:
    bulkhead = Bulkhead(KNOBS)
    for flood in range(50):
        fill(bulkhead, f"flood-{flood}")
        if flood < 5:
            assert bulkhead.in_flight < KNOBS.total
    bulkhead = Bulkhead(KNOBS)
    for flood in range(4):
        fill(bulkhead, f"flood-{flood}")
    assert [bulkhead.enter("polite") for _ in range(4)] == [True] * 4


def test_the_total_is_never_exceeded() -> None:
    bulkhead = Bulkhead(KNOBS)
    assert sum(bulkhead.enter(f"one-of-many-{n}") for n in range(200)) == 100


def test_equal_floods_end_with_equal_parts() -> None:
    bulkhead, floods = Bulkhead(KNOBS), [f"flood-{n}" for n in range(4)]
    for _ in range(200):
        for flood in floods:
            fill(bulkhead, flood)
        for flood in floods:
            bulkhead.leave(flood)
    held = [bulkhead.held_by(flood) for flood in floods]
    assert max(held) - min(held) <= 4


def test_leaving_without_having_entered_raises() -> None:
    bulkhead = Bulkhead(KNOBS)
    bulkhead.enter("a")
    bulkhead.leave("a")
    with pytest.raises(ValueError, match="a left the bulkhead with nothing in flight; 0 in flight"):
        bulkhead.leave("a")
    assert bulkhead.in_flight == 0


@pytest.mark.parametrize("knobs", [{"guaranteed": 5000}, {"reserved": 8192}])
def test_settings_that_contradict_each_other_are_refused(knobs: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(knobs, BulkheadSettings)


class BulkheadMachine(RuleBasedStateMachine):
    """Five identities, as many as the reserve guarantees for, come and go as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.bulkhead = Bulkhead(KNOBS)
        self.held = dict.fromkeys("abcde", 0)

    @rule(identity=st.sampled_from("abcde"), times=st.integers(1, 80))
    def enter(self, identity: str, times: int) -> None:
        for _ in range(times):
            entered = self.bulkhead.enter(identity)
            assert entered or self.held[identity] >= KNOBS.guaranteed
            self.held[identity] += entered

    @rule(identity=st.sampled_from("abcde"), times=st.integers(1, 80))
    def leave(self, identity: str, times: int) -> None:
        for _ in range(min(times, self.held[identity])):
            self.bulkhead.leave(identity)
            self.held[identity] -= 1

    @invariant()
    def the_counts_are_right_and_within_bounds(self) -> None:
        assert self.bulkhead.in_flight == sum(self.held.values()) <= KNOBS.total
        assert all(self.bulkhead.held_by(identity) == held for identity, held in self.held.items())
        assert max(self.held.values()) <= KNOBS.per_identity


TestBulkheadMachine = BulkheadMachine.TestCase
TestBulkheadMachine.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
