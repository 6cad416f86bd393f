from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.reporting.coalescing import Coalescer


def told(coalescer: Coalescer[str], now: float) -> list[tuple[str, int, float]]:
    return [(repeats.report, repeats.count, repeats.last_at) for repeats in coalescer.due(now)]


def test_repeats_within_a_second_are_told_as_one_when_it_is_over() -> None:
    coalescer: Coalescer[str] = Coalescer()
    assert not coalescer.repeats("a", 100.0)
    coalescer.begin("a", "error a", now=0.0)
    assert coalescer.repeats("a", 100.2)
    assert coalescer.repeats("a", 100.4)
    assert coalescer.next_at() == 1.0
    assert told(coalescer, 0.9) == []
    assert told(coalescer, 1.0) == [("error a", 2, 100.4)]


def test_a_storm_goes_on_in_its_run_and_a_quiet_second_ends_it() -> None:
    coalescer: Coalescer[str] = Coalescer()
    coalescer.begin("a", "error a", now=0.0)
    coalescer.repeats("a", 100.0)
    assert len(told(coalescer, 1.0)) == 1
    assert coalescer.repeats("a", 101.5)
    assert told(coalescer, 2.0) == [("error a", 1, 101.5)]
    assert told(coalescer, 3.0) == []
    assert not coalescer.repeats("a", 103.0)
    assert coalescer.next_at() is None


def test_beyond_the_bound_each_is_told_singly() -> None:
    coalescer: Coalescer[str] = Coalescer(kinds=1)
    coalescer.begin("a", "error a", now=0.0)
    coalescer.begin("b", "error b", now=0.0)
    assert not coalescer.repeats("b", 1.0)


def test_at_the_end_what_was_counted_is_told() -> None:
    coalescer: Coalescer[str] = Coalescer()
    coalescer.begin("a", "error a", now=0.0)
    coalescer.begin("b", "error b", now=0.0)
    coalescer.repeats("b", 100.0)
    assert [(repeats.report, repeats.count) for repeats in coalescer.end()] == [("error b", 1)]
    assert coalescer.end() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.7))))
def test_every_report_is_told_once(storm: list[tuple[str, float]]) -> None:
    coalescer: Coalescer[str] = Coalescer(kinds=2)
    now, total = 0.0, 0
    for key, pause_s in storm:
        now += pause_s
        total += sum(repeats.count for repeats in coalescer.due(now))
        if not coalescer.repeats(key, now):
            coalescer.begin(key, key, now)
            total += 1
    total += sum(repeats.count for repeats in coalescer.end())
    assert total == len(storm)
