from __future__ import annotations

import pytest

from benchmarks.report import number, rendered
from benchmarks.result import Figure, Result, Target

QUICK = Target("a call", "at most", 5, "ms")
MANY = Target("calls taken", "at least", 1_000, "calls/s")


@pytest.mark.parametrize(
    ("target", "measured", "met"),
    [(QUICK, 5.0, True), (QUICK, 5.01, False), (MANY, 1_000, True), (MANY, 999.9, False)],
)
def test_a_promise_is_kept_up_to_its_bound(target: Target, measured: float, met: bool) -> None:
    assert target.judge(measured).met is met


def test_the_page_says_of_every_promise_whether_it_was_kept() -> None:
    result = Result("Calls", [Figure.of("call", "ms", [3, 1, 2])], [QUICK.judge(2), MANY.judge(10)], ["on one core"])

    page = rendered([result], ["a machine"], 3, "today").splitlines()

    assert "| a call | at most 5 ms | 2 ms | met |" in page
    assert "| calls taken | at least 1,000 calls/s | 10 calls/s | **not met** |" in page
    assert "| call | 2 | 1 | 3 | ms |" in page
    assert "Note: on one core." in page


@pytest.mark.parametrize(("value", "shown"), [(0.4567, "0.46"), (3, "3"), (99.95, "99.95"), (12_345.6, "12,346")])
def test_a_number_has_the_digits_that_mean_something(value: float, shown: str) -> None:
    assert number(value) == shown
