from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.dispatch.agenda import SPARE, Agenda


def test_the_lowest_is_first_and_of_equals_the_one_added_first() -> None:
    agenda = Agenda()
    for name, number in (("c", 2.0), ("a", 1.0), ("b", 1.0)):
        agenda.put(name, number)
    assert agenda.first() == (1.0, "a")
    agenda.put("a", 1.0)
    assert agenda.first() == (1.0, "b")


def test_what_is_due_stays_until_it_is_taken_out() -> None:
    agenda = Agenda()
    assert agenda.first() is None
    assert agenda.due(9.0) is None
    agenda.put("a", 5.0)
    assert agenda.due(4.9) is None
    assert agenda.due(5.0) == "a"
    assert "a" in agenda
    agenda.drop("a")
    agenda.drop("a")
    assert "a" not in agenda
    assert agenda.due(5.0) is None


def test_the_heap_stays_in_proportion_to_what_it_holds() -> None:
    agenda = Agenda()
    for number in range(10_000):
        agenda.put(f"n{number % 3}", float(number))
    assert len(agenda) == 3
    assert len(agenda._heap) <= 2 * 3 + SPARE + 1
    assert agenda.first() == (9_997.0, "n1")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(0, 5)))))
def test_it_orders_as_a_sorted_list_would(steps: list[tuple[str, int | None]]) -> None:
    agenda, model = Agenda(), {}
    for order, (name, number) in enumerate(steps):
        if number is None:
            agenda.drop(name)
            model.pop(name, None)
        else:
            agenda.put(name, float(number))
            model[name] = (float(number), order)
        lowest = min(((number, order, name) for name, (number, order) in model.items()), default=None)
        assert agenda.first() == (None if lowest is None else (lowest[0], lowest[2]))
        assert len(agenda) == len(model)
