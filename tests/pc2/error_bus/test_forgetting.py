from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pc2.error_bus.forgetting import Forgetting


def test_what_was_resolved_longest_ago_goes_first() -> None:
    order = Forgetting()
    for name in "abc":
        order.seen(name, "reader")
    order.resolved("c")
    order.resolved("b")
    assert order.next() == "c"
    order.seen("c", "reader")
    assert order.next() == "b"


def test_an_agent_whose_errors_all_differ_pushes_out_its_own() -> None:
    order = Forgetting()
    order.seen("rare", "careful")
    for n in range(100):
        order.seen(f"noise{n}", "noisy")
    gone = []
    for _ in range(99):
        gone.append(order.next())
        order.drop(gone[-1])
    assert gone == [f"noise{n}" for n in range(99)]


def test_the_group_seen_last_stays_while_there_is_another() -> None:
    order = Forgetting()
    order.seen("y0", "y")
    order.seen("y1", "y")
    order.seen("x0", "x")
    order.drop("y0")
    assert order.next() == "y1"
    order.drop("y1")
    assert order.next() == "x0"


def test_a_group_has_one_owner() -> None:
    order = Forgetting()
    order.seen("a", "one")
    with pytest.raises(ValueError, match="a belongs to one, and not to two"):
        order.seen("a", "two")


class ForgettingMachine(RuleBasedStateMachine):
    """The same order kept the slow way."""

    def __init__(self) -> None:
        super().__init__()
        self.order = Forgetting()
        self.unresolved: dict[str, None] = {}
        self.resolved: dict[str, None] = {}
        self.just_seen = ""

    @rule(name=st.sampled_from([f"{owner}{n}" for owner in "xyz" for n in range(4)]))
    def seen(self, name: str) -> None:
        self.order.seen(name, name[0])
        self.resolved.pop(name, None)
        self.unresolved.pop(name, None)
        self.unresolved[name] = None
        self.just_seen = name

    @rule()
    def make_room(self) -> None:
        if len(self.order) > 1:
            name = self.order.next()
            assert name != self.just_seen
            self.order.drop(name)
            self.unresolved.pop(name, None)
            self.resolved.pop(name, None)

    @rule(index=st.integers(0, 20))
    def resolve(self, index: int) -> None:
        if self.unresolved:
            name = list(self.unresolved)[index % len(self.unresolved)]
            self.order.resolved(name)
            del self.unresolved[name]
            self.resolved[name] = None
            self.just_seen = ""

    @rule(index=st.integers(0, 20))
    def drop(self, index: int) -> None:
        known = [*self.unresolved, *self.resolved]
        if known:
            name = known[index % len(known)]
            self.order.drop(name)
            self.unresolved.pop(name, None)
            self.resolved.pop(name, None)
            self.just_seen = ""

    @invariant()
    def the_next_is_right(self) -> None:
        assert len(self.order) == len(self.unresolved) + len(self.resolved)
        if self.resolved:
            assert self.order.next() == next(iter(self.resolved))
        elif self.unresolved:
            owned = {owner: [name for name in self.unresolved if name[0] == owner] for owner in "xyz"}
            most = max(map(len, owned.values()))
            assert self.order.next() in [names[0] for names in owned.values() if len(names) == most]
        if len(self.order) > 1:
            assert self.order.next() != self.just_seen


ForgettingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestForgettingMachine = ForgettingMachine.TestCase
