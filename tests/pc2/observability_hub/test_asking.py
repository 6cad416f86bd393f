from __future__ import annotations

import pytest

from common.errors import BadRequest
from pc2.observability_hub.asking import LEVELS, MAX_POINTS, Span, merged, span, values
from pc2.observability_hub.series import Bucket

NOW = 1_000_000.0
TEN, MINUTE, QUARTER = LEVELS


def bucket(start: int, *points: float) -> Bucket:
    return Bucket(start, len(points), sum(points), min(points), max(points), points[-1])


def test_without_a_time_the_last_five_minutes_are_meant_in_the_finest_steps() -> None:
    exact = span(None, None, 0, NOW)
    assert (exact.level, exact.step_s) == (TEN, 10)
    assert exact.end >= NOW
    assert exact.start <= NOW - 300 < exact.start + 10


@pytest.mark.parametrize(("ago_s", "level"), [(3_000, TEN), (80_000, MINUTE), (2_000_000, QUARTER), (9e6, QUARTER)])
def test_the_finest_level_that_reaches_back_answers(ago_s: float, level: object) -> None:
    exact = span(NOW - ago_s, None, ago_s / 100, NOW)
    assert exact.level == level
    assert exact.step_s % exact.level.step_s == 0


def test_a_step_is_rounded_up_to_whole_buckets_and_chosen_where_none_is_asked_for() -> None:
    assert span(NOW - 3_600, NOW, 25, NOW).step_s == 30
    assert span(NOW - 3_600, NOW, 1, NOW).step_s == 10
    assert span(NOW - 80_000, NOW, 0, NOW).step_s == 300


def test_a_question_that_ends_before_it_begins_or_asks_for_too_much_is_refused() -> None:
    with pytest.raises(BadRequest, match="not before its end"):
        span(NOW, NOW - 1, 0, NOW)
    with pytest.raises(BadRequest, match=f"more than {MAX_POINTS} points"):
        span(NOW - 30 * 86_400, NOW, 0.001, NOW - 29 * 86_400)


def test_pieces_of_a_bucket_and_finer_buckets_are_put_together_in_order_of_time() -> None:
    asked = Span(0, 60, 30, TEN)
    found = merged([bucket(40, 9.0), bucket(0, 1.0, 3.0), bucket(10, 2.0), bucket(0, 5.0), bucket(90, 7.0)], asked)
    assert [(one.start, one.count, one.total, one.least, one.most, one.last) for one in found] == [
        (0, 4, 11.0, 1.0, 5.0, 2.0),
        (30, 1, 9.0, 9.0, 9.0, 9.0),
    ]


def test_each_aggregate_is_what_its_name_says() -> None:
    rows = [bucket(0, 1.0, 5.0), bucket(10, 6.0)]
    told = {
        name: [value for _, value in values(rows, name, "gauge")]
        for name in ("avg", "sum", "count", "min", "max", "last")
    }  # type: ignore[arg-type]
    assert told == {
        "avg": [3.0, 6.0],
        "sum": [6.0, 6.0],
        "count": [2.0, 1.0],
        "min": [1.0, 6.0],
        "max": [5.0, 6.0],
        "last": [5.0, 6.0],
    }


def test_a_rate_is_per_second_and_a_counter_that_fell_began_anew() -> None:
    rows = [bucket(0, 10.0), bucket(10, 60.0), bucket(30, 20.0)]
    assert values(rows, "rate", "counter") == [(10, 5.0), (30, 1.0)]
    assert values(rows, "rate", "gauge") == [(10, 5.0), (30, -2.0)]
