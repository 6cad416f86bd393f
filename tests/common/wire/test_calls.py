from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.wire.calls import CallTable


def test_a_call_is_closed_once() -> None:
    table: CallTable[str] = CallTable()
    call_id = table.open("a", None)
    assert table.waiter(call_id) == "a"
    assert table.close(call_id) == "a"
    assert table.close(call_id) is None
    assert table.waiter(call_id) is None


def test_a_call_without_a_deadline_is_never_overdue() -> None:
    table: CallTable[str] = CallTable()
    table.open("patient", None)
    late = table.open("late", 1.0)
    assert table.overdue(1.0) == [(late, "late")]
    assert len(table) == 1


def test_the_first_deadline_is_the_earliest_of_those_who_have_one() -> None:
    table: CallTable[str] = CallTable()
    assert table.first_deadline() is None
    table.open("patient", None)
    assert table.first_deadline() is None
    late = table.open("late", 2.0)
    table.open("later", 3.0)
    assert table.first_deadline() == 2.0
    table.close(late)
    assert table.first_deadline() == 3.0


def test_when_the_channel_is_gone_all_are_taken_out_oldest_first_even_those_opened_meanwhile() -> None:
    table: CallTable[str] = CallTable()
    table.open("a", None)
    table.open("b", 1.0)
    taken = []
    for _, waiter in table.take_all():
        taken.append(waiter)
        if waiter == "a":
            table.open("c", None)
    assert taken == ["a", "b", "c"]
    assert len(table) == 0


class Calls(RuleBasedStateMachine):
    """The table against a dict: every waiter leaves it exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.table: CallTable[int] = CallTable()
        self.model: dict[int, tuple[int, float | None]] = {}
        self.opened = 0

    @rule(deadline=st.none() | st.floats(0, 100))
    def open(self, deadline: float | None) -> None:
        self.opened += 1
        call_id = self.table.open(self.opened, deadline)
        assert call_id not in self.model
        self.model[call_id] = (self.opened, deadline)

    @rule(call_id=st.integers(0, 20))
    def close(self, call_id: int) -> None:
        entry = self.model.pop(call_id, None)
        assert self.table.close(call_id) == (entry[0] if entry else None)

    @rule(now=st.floats(0, 100))
    def overdue(self, now: float) -> None:
        late = {key for key, (_, deadline) in self.model.items() if deadline is not None and deadline <= now}
        assert {key for key, _ in self.table.overdue(now)} == late
        for key in late:
            del self.model[key]

    @invariant()
    def the_same_calls_wait(self) -> None:
        assert len(self.table) == len(self.model)
        for key, (waiter, _) in self.model.items():
            assert self.table.waiter(key) == waiter


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
