from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.vram.urgency import request_priority

PRIORITIES = st.integers(0, 100)


@pytest.mark.parametrize(
    ("own", "asked", "priority"),
    [(50, 80, 80), (50, 10, 10), (80, 50, 80), (10, 50, 10), (80, 40, 70), (90, 90, 100), (5, 0, 0)],
)
def test_the_callers_word_shifts_the_models_own(own: int, asked: int, priority: int) -> None:
    assert request_priority(own, asked) == priority


@given(own=PRIORITIES, asked=PRIORITIES)
def test_it_is_a_priority_and_rises_with_both(own: int, asked: int) -> None:
    found = request_priority(own, asked)
    assert 0 <= found <= 100
    assert found <= request_priority(min(100, own + 1), asked)
    assert found <= request_priority(own, min(100, asked + 1))
