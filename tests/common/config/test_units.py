from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.units import format_bytes, format_seconds, parse_bytes, parse_seconds
from common.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4GiB", 4 * 2**30),
        ("500MB", 500_000_000),
        ("1.5 KiB", 1536),
        ("7", 7),
        ("12b", 12),
        (" 2tib ", 2 * 2**40),
        ("0.000000001GB", 1),
        ("9007199254740991", 2**53 - 1),
    ],
)
def test_a_size_is_read_in_the_unit_it_names(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10G", "10GiB or 10GB"),
        ("5 parsecs", "no unit of size"),
        ("-1", "not a size"),
        ("", "not a size"),
        ("1e3", "not a size"),
        ("9007199254740992", "largest size"),
        ("9999999999999999TiB", "largest size"),
    ],
)
def test_a_size_that_cannot_be_meant_says_why(text: str, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5s", 5), ("500ms", 0.5), ("2m", 120), ("2min", 120), ("1h", 3600), ("1d", 86400), ("3", 3), ("0.25", 0.25)],
)
def test_a_duration_is_read_in_the_unit_it_names(text: str, value: float) -> None:
    assert parse_seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "told"), [("5 weeks", "no unit of time"), ("soon", "not a duration"), ("400d", "longer than a year")]
)
def test_a_duration_that_cannot_be_meant_says_why(text: str, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 * 2**30, "10.0 GiB"), (3 * 2**40, "3.0 TiB")],
)
def test_bytes_are_shown_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.085, "85 ms"),
        (4.2, "4.2 s"),
        (185, "3m 05s"),
        (59.99, "1m 00s"),
        (7_800, "2h 10m"),
        (5 * 86_400 + 3 * 3_600, "5d 03h"),
        (-1, "-"),
        (float("inf"), "-"),
    ],
)
def test_seconds_are_shown_in_one_or_two_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_refusal(text: str) -> None:
    for parse in (parse_bytes, parse_seconds):
        with suppress(BadRequest):
            assert parse(text) >= 0
