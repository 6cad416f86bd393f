from __future__ import annotations

from math import exp

import pytest

from common.vram.demand import UNKNOWN_GAP_S, Demand, Horizon, ModelKey, want

LLAMA = ModelKey("llama", "ctx=8192")
WHISPER = ModelKey("whisper")


def test_what_was_never_used_has_an_unknown_gap_and_no_last_use() -> None:
    demand = Demand()
    assert (demand.gap(LLAMA), demand.idle(LLAMA, 5.0)) == (UNKNOWN_GAP_S, UNKNOWN_GAP_S)


def test_one_use_says_when_but_not_how_often() -> None:
    demand = Demand()
    demand.used(LLAMA, 10.0)
    assert (demand.gap(LLAMA), demand.idle(LLAMA, 14.0)) == (UNKNOWN_GAP_S, 4.0)


def test_the_first_gaps_are_averaged_and_later_ones_smoothed() -> None:
    demand, at = Demand(), 0.0
    demand.used(LLAMA, at)
    for gap, smoothed in ((100, 100), (10, 55), (10, 40), (40, 40), (40, 40), (100, 0.8 * 40 + 0.2 * 100)):
        at += gap
        demand.used(LLAMA, at)
        assert demand.gap(LLAMA) == pytest.approx(smoothed)


def test_two_configurations_of_a_model_are_wanted_apart() -> None:
    demand = Demand()
    demand.used(LLAMA, 0.0)
    assert demand.idle(ModelKey("llama", "ctx=512"), 7.0) == UNKNOWN_GAP_S


def test_a_use_that_is_told_late_turns_no_clock_back() -> None:
    demand = Demand()
    demand.used(LLAMA, 10.0)
    demand.used(LLAMA, 4.0)
    assert (demand.gap(LLAMA), demand.idle(LLAMA, 12.0)) == (0.0, 2.0)
    assert demand.idle(LLAMA, 3.0) == 0.0


def test_of_too_many_models_the_one_unused_for_longest_is_forgotten() -> None:
    demand = Demand(limit=2)
    third = ModelKey("flux")
    for at, key in enumerate((LLAMA, WHISPER, LLAMA, third)):
        demand.used(key, float(at))
    assert len(demand) == 2
    assert demand.idle(WHISPER, 4.0) == UNKNOWN_GAP_S
    assert demand.idle(LLAMA, 4.0) == 2.0


def test_the_want_falls_as_the_gap_or_the_silence_grows() -> None:
    assert want(10, 0, 600) > want(100, 0, 600) > want(100, 1_000, 600) > want(100, 10_000, 600) > 0
    assert want(100, 50, 600) == want(100, 0, 600)


def test_a_model_used_without_any_gap_is_wanted_for_sure() -> None:
    assert want(0, 0, 600) == 1.0
    assert want(0.5, 0, 0.5) == pytest.approx(1 - exp(-1))


def test_the_horizon_follows_the_ages_of_victims_within_bounds() -> None:
    horizon = Horizon()
    horizon.evicted(100.0)
    assert horizon.seconds == pytest.approx(0.95 * 600 + 0.05 * 100)
    for _ in range(1_000):
        horizon.evicted(1e9)
    assert horizon.seconds == pytest.approx(7_200)
    for _ in range(1_000):
        horizon.evicted(0.0)
    assert horizon.seconds == pytest.approx(5)
