from __future__ import annotations

import math
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from common.api.observability_hub import MetricPoint
from pc2.observability_hub.series import IDLE_S, LATE_S, SeriesKey, SeriesTable

NOW = 1_000_000.0


def test_points_become_buckets_of_ten_seconds_and_are_handed_over_once() -> None:
    table = SeriesTable()
    for at, value in ((0, 1.0), (9, 5.0), (10, 3.0)):
        table.add("a", "load", value, {}, NOW + at, NOW)
    closed = {one.bucket.start - NOW: one.bucket for one in table.close(NOW)}
    assert (closed[0].count, closed[0].total, closed[0].least, closed[0].most, closed[0].last) == (
        2,
        6.0,
        1.0,
        5.0,
        5.0,
    )
    assert closed[10].count == 1
    assert table.close(NOW) == []
    table.add("a", "load", 7.0, {}, NOW, NOW)
    assert [one.bucket.count for one in table.close(NOW)] == [1]


def test_labels_tell_series_apart_whatever_their_order() -> None:
    table = SeriesTable()
    table.add("a", "x", 1, {"p": "1", "q": "2"}, NOW, NOW)
    table.add("a", "x", 1, {"q": "2", "p": "1"}, NOW, NOW)
    table.add("a", "x", 1, {"p": "2"}, NOW, NOW)
    table.add("b", "x", 1, {}, NOW, NOW)
    assert len(table) == 3
    assert [one.key.labels for one in table.matching("x", "", {"p": "1"})] == [(("p", "1"), ("q", "2"))]
    assert {one.key.agent for one in table.matching("x", "", {})} == {"a", "b"}
    assert [one.key for one in table.matching("x", "b", {})] == [SeriesKey("x", "b", ())]
    assert list(table.matching("y", "", {})) == []


def test_one_caller_leaves_room_for_others_whatever_agents_it_speaks_for() -> None:
    table = SeriesTable(max_series=8, max_per_agent=5)
    refused = "the caller has its share of the 8 series already"
    told = [table.add(f"agent {n}", "m", 1, {}, NOW, NOW, by="local@pc2") for n in range(8)]
    assert told == [""] * 6 + [refused] * 2
    assert table.add("agent 0", "m", 1, {}, NOW, NOW, by="local@pc2") == ""
    assert table.add("other", "m", 1, {}, NOW, NOW, by="eve@mainpc") == ""
    assert table.add("hub", "own", 1, {}, NOW, NOW) == ""
    assert table.dropped[refused] == 2
    table.close(NOW + IDLE_S + 1)
    assert table.add("agent 9", "m", 1, {}, NOW + IDLE_S + 2, NOW + IDLE_S + 2, by="local@pc2") == ""


def test_what_is_beyond_a_bound_is_dropped_and_counted() -> None:
    table = SeriesTable(max_series=3, max_per_agent=2)
    assert list(table.dropped.values()) == [0, 0, 0, 0, 0, 0]
    assert [table.add("a", f"m{n}", 1, {}, NOW, NOW) for n in range(3)] == ["", "", "the agent has 2 series already"]
    assert table.add("b", "m", 1, {}, NOW, NOW) == ""
    assert table.add("c", "m", 1, {}, NOW, NOW) == "there are 3 series already"
    assert table.add("a", "m0", math.nan, {}, NOW, NOW) == "not a finite number"
    assert table.add("a", "m0", -1e201, {}, NOW, NOW) == "a number beyond 1e+200"
    assert table.add("a", "m0", 1, {}, NOW - LATE_S - 1, NOW) == "its time is too far from now"
    assert table.add("a", "m0", 1, {}, NOW + 120, NOW) == "its time is too far from now"
    assert (table.taken, sum(table.dropped.values()), len(table)) == (3, 6, 3)


def test_an_idle_series_makes_room_and_its_last_points_are_handed_over() -> None:
    table = SeriesTable(max_series=2)
    table.add("a", "x", 1, {}, NOW, NOW)
    table.add("a", "y", 1, {}, NOW, NOW)
    table.add("a", "y", 1, {}, NOW + IDLE_S, NOW + IDLE_S)
    assert len(table.close(NOW + IDLE_S + 1)) == 3
    assert [key.name for key in table._series] == ["y"]
    table.close(NOW + 3 * IDLE_S)
    assert (len(table), table._by_agent) == (0, {})


def test_a_batch_says_how_many_were_taken_and_why_one_was_not() -> None:
    table = SeriesTable()
    at = datetime.fromtimestamp(NOW - 5, UTC)
    points = [
        MetricPoint(name="x", value=1.0, at=at),
        MetricPoint(name="x", value=math.inf),
        MetricPoint(name="n", value=2, kind="counter"),
    ]
    assert table.take("a", points, NOW) == (2, "not a finite number")
    assert {one.kind for one in table.matching("n", "", {})} == {"counter"}


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(-1e6, 1e6)), max_size=200))
def test_no_point_is_lost_or_counted_twice(points: list[tuple[int, float]]) -> None:
    table, closed = SeriesTable(), []
    for index, (ago, value) in enumerate(points):
        table.add("a", "x", value, {}, NOW - ago, NOW)
        if index % 7 == 0:
            closed += table.close(NOW)
    closed += table.close(NOW)
    assert sum(one.bucket.count for one in closed) == len(points)
    assert math.isclose(sum(one.bucket.total for one in closed), sum(v for _, v in points), rel_tol=1e-9, abs_tol=1e-3)


def test_memory_is_bounded_whatever_is_pushed() -> None:
    table = SeriesTable(max_series=10)
    for number in range(5_000):
        table.add("a", f"m{number % 20}", 1.0, {}, NOW + number % 30, NOW)
    assert len(table) == 10
    assert all(len(series.open) <= 4 for series in table._series.values())
