from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.telemetry.quantiles import HIGHEST_S, LOWEST_S, RELATIVE_ERROR, Quantiles

durations = st.lists(st.floats(LOWEST_S, HIGHEST_S), min_size=1, max_size=200)


def observed(values: list[float]) -> Quantiles:
    quantiles = Quantiles()
    for value in values:
        quantiles.observe(value)
    return quantiles


@given(durations)
def test_every_quantile_is_within_the_relative_error_of_a_true_one(values: list[float]) -> None:
    shares = (0.0, 0.5, 0.95, 0.99, 1.0)
    for share, found in zip(shares, observed(values).at(*shares), strict=True):
        true = sorted(values)[int(share * (len(values) - 1))]
        assert found == pytest.approx(true, rel=RELATIVE_ERROR * 1.001)


@pytest.mark.parametrize("odd", [0.0, -1.0, math.nan, 1e-12])
def test_what_is_no_duration_counts_as_the_lowest(odd: float) -> None:
    assert observed([odd]).at(0.5)[0] == pytest.approx(LOWEST_S, rel=1.001 * RELATIVE_ERROR)


@pytest.mark.parametrize("long_s", [HIGHEST_S, 1e9, math.inf])
def test_what_is_too_long_counts_as_the_highest(long_s: float) -> None:
    assert observed([long_s]).at(0.5)[0] == pytest.approx(HIGHEST_S, rel=2 * RELATIVE_ERROR)


def test_nothing_observed_reads_zero() -> None:
    assert Quantiles().at(0.5, 0.99) == [0.0, 0.0]
    assert Quantiles().count() == 0


def test_the_window_before_counts_and_the_one_before_that_does_not() -> None:
    quantiles = observed([1.0, 1.0, 1.0])
    quantiles.rotate()
    quantiles.observe(0.001)
    assert quantiles.at(1.0)[0] == pytest.approx(1.0, rel=RELATIVE_ERROR)
    assert quantiles.count() == 4
    quantiles.rotate()
    assert quantiles.at(1.0)[0] == pytest.approx(0.001, rel=RELATIVE_ERROR)


@given(durations, durations)
def test_merged_quantiles_are_those_of_all_observations(one: list[float], other: list[float]) -> None:
    merged = observed(one)
    merged.merge(observed(other))
    assert merged.at(0.5, 0.99) == observed(one + other).at(0.5, 0.99)
    assert merged.count() == len(one) + len(other)


def test_merging_leaves_the_other_as_it_was() -> None:
    merged, other = Quantiles(), observed([1.0])
    merged.merge(other)
    merged.observe(1.0)
    assert (merged.count(), other.count()) == (2, 1)
