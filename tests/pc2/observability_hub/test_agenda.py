from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pc2.observability_hub.agenda import CROWD, Agenda

ALONE = (0.0, -1.0)
"""No time is between these."""


def test_who_may_be_asked_when_another_one_is_takes_that_turn_and_else_one_of_its_own() -> None:
    agenda = Agenda()
    agenda.plan("a", 5.0, ALONE)
    agenda.plan("b", 7.0, (6.0, 8.0))
    agenda.plan("c", 9.0, (4.0, 9.5))
    agenda.plan("d", 5.5, (4.0, 6.0))
    assert (agenda.next, agenda.take(4.9)) == (5.0, [])
    assert agenda.take(5.0) == ["a", "d"]
    assert agenda.take(7.0) == ["b", "c"]
    assert agenda.next is None


def test_a_turn_has_room_for_a_crowd_and_the_next_one_is_another_turn() -> None:
    agenda = Agenda()
    for number in range(CROWD + 1):
        agenda.plan(f"{number}", 5.0 + number / 100, (5.0, 6.0))
    agenda.plan("late", 6.0, (5.0, 6.0))
    assert len(agenda.take(5.0)) == CROWD
    assert agenda.take(6.0) == [f"{CROWD}", "late"]


def test_a_new_plan_takes_the_place_of_the_old_one() -> None:
    agenda = Agenda()
    agenda.plan("a", 5.0, ALONE)
    agenda.plan("a", 9.0, ALONE)
    assert (agenda.next, "a" in agenda) == (9.0, True)
    agenda.drop("a")
    agenda.drop("a")
    assert (agenda.next, "a" in agenda) == (None, False)


def test_a_turn_is_hastened_and_never_put_off_so() -> None:
    agenda = Agenda()
    agenda.hasten("a", 5.0)
    agenda.hasten("a", 6.0)
    assert agenda.next == 5.0
    agenda.hasten("a", 4.0)
    assert agenda.take(4.0) == ["a"]
    assert agenda.next is None


KEYS = st.sampled_from("abcdefghijklmnopqrstuvwxyz")
TIMES = st.sampled_from([n / 8 for n in range(32)])


class Agendas(RuleBasedStateMachine):
    """Everybody has one turn, within what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.agenda = Agenda()
        self.expected: dict[str, tuple[float, float]] = {}

    @rule(key=KEYS, last=TIMES, early=st.sampled_from([0.0, 0.25, 1.0]))
    def plan(self, key: str, last: float, early: float) -> None:
        self.agenda.plan(key, last, (last - early, last))
        self.expected[key] = last - early, last

    @rule(key=KEYS, by=TIMES)
    def hasten(self, key: str, by: float) -> None:
        first, last = self.expected.get(key, (by, by))
        self.agenda.hasten(key, by)
        self.expected[key] = min(first, by), min(last, by)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.agenda.drop(key)
        self.expected.pop(key, None)

    @rule(until=TIMES)
    def take(self, until: float) -> None:
        taken = self.agenda.take(until)
        assert len(taken) == len(set(taken))
        for key in taken:
            assert self.expected.pop(key)[0] <= until
        assert all(last > until for _, last in self.expected.values())

    @invariant()
    def whoever_waits_has_a_turn(self) -> None:
        assert {key for key in map(chr, range(97, 123)) if key in self.agenda} == self.expected.keys()
        assert (self.agenda.next is None) == (not self.expected)


Agendas.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAgendas = Agendas.TestCase
