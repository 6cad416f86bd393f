from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.resilience.polling import Polling

MS = 0.001
DOUBLING = Polling(2 * MS, 50 * MS)
HUNDREDTH = Polling(4 * MS, 250 * MS, 0.01)


@pytest.mark.parametrize(
    ("polling", "waited_ms", "pause_ms"),
    [
        (DOUBLING, 0, 2),
        (DOUBLING, 2, 2),
        (DOUBLING, 4, 4),
        (DOUBLING, 8, 8),
        (DOUBLING, 40, 40),
        (DOUBLING, 90, 50),
        (DOUBLING, 60_000, 50),
        (DOUBLING, -5, 2),
        (HUNDREDTH, 0, 4),
        (HUNDREDTH, 300, 4),
        (HUNDREDTH, 1_000, 10),
        (HUNDREDTH, 25_000, 250),
        (HUNDREDTH, 600_000, 250),
    ],
)
def test_the_pause_is_a_part_of_the_time_waited_between_its_bounds(
    polling: Polling, waited_ms: float, pause_ms: float
) -> None:
    assert polling.pause_s(waited_ms * MS) == pytest.approx(pause_ms * MS)


@given(at_ms=st.floats(0, 20_000))
def test_what_comes_about_is_found_late_by_its_part_and_in_few_looks(at_ms: float) -> None:
    looked_at, looks = 0.0, 1
    while looked_at < at_ms * MS:
        looked_at, looks = looked_at + HUNDREDTH.pause_s(looked_at), looks + 1
    assert looked_at - at_ms * MS <= max(4 * MS, at_ms * MS * 0.01) + 1e-9
    assert looks <= 520  # 20 s at 20 ms each would be a thousand
