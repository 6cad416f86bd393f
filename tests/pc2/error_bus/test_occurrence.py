from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BadRequest
from pc2.error_bus.occurrence import OLDEST_S, Moment, occurred, seconds_of, timestamp_of

NOW = Moment(1_800_000_000.0, 500.0)


def at(offset_s: float) -> str:
    return timestamp_of(NOW.wall + offset_s)


def test_an_age_is_told_by_the_senders_clock_alone() -> None:
    assert occurred(at(-7_210), at(-7_200), NOW) == Moment(NOW.wall - 10, 490.0)
    assert occurred(at(90_000), at(90_010), NOW) == Moment(NOW.wall - 10, 490.0)


def test_without_the_time_of_sending_it_was_sent_now() -> None:
    assert occurred(at(-10), "", NOW) == Moment(NOW.wall - 10, 490.0)
    assert occurred("", "", NOW) == NOW == occurred("", at(-5), NOW)


@pytest.mark.parametrize("offset_s", [0.5, 86_400.0, -OLDEST_S - 1, 1 - NOW.wall])
def test_where_a_clock_stepped_in_between_the_arrival_counts(offset_s: float) -> None:
    assert occurred(at(offset_s), "", NOW) == NOW


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_nothing_occurs_in_the_future_or_before_a_spool_could_hold_it(told_s: float, sent_s: float) -> None:
    happened = occurred(at(told_s), at(sent_s), NOW)
    assert NOW.wall - OLDEST_S <= happened.wall <= NOW.wall
    assert NOW.wall - happened.wall == pytest.approx(NOW.monotonic - happened.monotonic, abs=1e-3)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59x", "x" * 100_000])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="no RFC 3339 time") as refused:
        seconds_of(text)
    assert len(refused.value.message) < 200


def test_times_are_read_with_and_without_a_zone_and_written_in_utc() -> None:
    assert seconds_of("2027-01-15T09:00:00+01:00") == seconds_of("2027-01-15T08:00:00Z") == NOW.wall
    assert seconds_of("2027-01-15T08:00:00") == NOW.wall
    assert timestamp_of(NOW.wall) == "2027-01-15T08:00:00.000Z"
