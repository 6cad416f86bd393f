from __future__ import annotations

import pytest

from common.errors import Code
from common.telemetry.meters import LAST_ERROR_CHARS, OTHER, WINDOW_S, Meters, VerbMeter
from common.telemetry.quantiles import RELATIVE_ERROR


def test_a_meter_counts_answers_errors_and_what_is_in_flight() -> None:
    meter = VerbMeter("acquire_lease")
    for _ in range(4):
        meter.begin()
    meter.end(0.010)
    meter.end(0.020, Code.NO_CAPACITY, "10.0 GiB needed; 3.2 GiB free on mainpc:0")
    meter.end(0.030, Code.OVERLOADED)
    stats = meter.stats()
    assert (stats.count, stats.errors, stats.in_flight) == (3, 2, 1)
    assert stats.p50_ms == pytest.approx(20, rel=RELATIVE_ERROR)
    assert stats.last_error == "overloaded"
    assert meter.errors == {Code.NO_CAPACITY: 1, Code.OVERLOADED: 1}
    assert meter.seconds == pytest.approx(0.060)


def test_the_last_error_says_code_and_message_and_is_bounded() -> None:
    meter = VerbMeter("ping")
    meter.begin()
    meter.end(0.1, Code.INTERNAL, "x" * 10_000)
    assert meter.last_error == "internal: " + "x" * LAST_ERROR_CHARS


def test_an_unused_verb_reads_zero() -> None:
    assert VerbMeter("ping").stats().p99_ms == 0.0


def test_a_verb_has_one_meter() -> None:
    meters = Meters(0.0)
    assert meters.of("ping") is meters.of("ping")
    assert list(meters) == [meters.of("ping")]


def test_verbs_beyond_the_bound_share_one_meter() -> None:
    meters = Meters(0.0, bound=2)
    names = [meters.of(verb).verb for verb in ("a", "b", "c", "d", "a")]
    assert names == ["a", "b", OTHER, OTHER, "a"]
    assert set(meters.stats()) == {"a", "b", OTHER}


def test_quantiles_are_of_the_recent_past() -> None:
    meters = Meters(1000.0)
    meter = meters.of("ping")
    meter.begin()
    meter.end(1.0)
    meters.tick(1000.0 + WINDOW_S - 1)
    meters.tick(1000.0 + WINDOW_S)
    assert meters.stats()["ping"].p50_ms > 0
    meters.tick(1000.0 + 2 * WINDOW_S)
    assert meters.stats()["ping"].p50_ms == 0.0
    assert meters.stats()["ping"].count == 1


def test_after_a_long_silence_nothing_is_recent() -> None:
    meters = Meters(0.0)
    meters.of("ping").end(1.0)
    meters.tick(100 * WINDOW_S)
    assert meters.stats()["ping"].p50_ms == 0.0
