from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BY_CODE, Code, Interrupted, NoCapacity, Overloaded, TandemError, Unavailable
from common.resilience.budget import RetryBudget, RetrySettings, next_attempt, remaining_ms


class Always:
    """Dice that always show the same."""

    def __init__(self, face: float) -> None:
        self.face = face

    def random(self) -> float:
        return self.face

    def getrandbits(self, k: int, /) -> int:
        raise AssertionError(k)


HIGH = Always(1.0)


def delay(error: TandemError, attempt: int = 1, deadline: float = 100.0, idempotent: bool = False) -> float | None:
    return next_attempt(error, attempt, 0.0, deadline, idempotent, HIGH, RetrySettings(attempts=8))


def test_the_wait_doubles_up_to_the_cap() -> None:
    waits = [delay(Unavailable("down"), attempt) for attempt in range(1, 8)]
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


def test_the_wait_is_anywhere_below_its_bound() -> None:
    assert next_attempt(Unavailable("down"), 1, 0.0, 10.0, False, Always(0.0)) == 0.0
    assert next_attempt(Unavailable("down"), 1, 0.0, 10.0, False, Always(0.5)) == 0.025


def test_a_hint_to_come_back_later_is_honoured() -> None:
    assert delay(Overloaded("full", retry_after_ms=300)) == pytest.approx(0.35)


def test_nothing_is_tried_beyond_the_deadline() -> None:
    assert delay(Overloaded("full", retry_after_ms=300), deadline=0.35) is None
    assert delay(Overloaded("full", retry_after_ms=300), deadline=0.36) is not None


def test_attempts_are_counted() -> None:
    assert delay(Unavailable("down"), attempt=8) is None


def test_what_may_have_been_done_is_tried_again_only_if_twice_is_as_once() -> None:
    assert delay(Interrupted("gone midway")) is None
    assert delay(Interrupted("gone midway"), idempotent=True) is not None


def test_waiting_for_room_is_left_to_the_queue() -> None:
    assert delay(NoCapacity("10 GiB needed, 3 free", retry_after_ms=10), idempotent=True) is None


@pytest.mark.parametrize("code", list(Code))
def test_only_what_was_not_done_is_tried_again_blindly(code: Code) -> None:
    tried = delay(BY_CODE[code]("no")) is not None
    assert tried == (code in {Code.OVERLOADED, Code.UNAVAILABLE, Code.STORAGE_UNAVAILABLE})


@given(st.integers(1, 9), st.floats(0, 10), st.floats(0, 10), st.integers(0, 5000) | st.none(), st.integers())
def test_a_retry_always_fits_into_the_budget(
    attempt: int, now: float, deadline: float, hint_ms: int | None, seed: int
) -> None:
    error = Overloaded("full", retry_after_ms=hint_ms)
    wait_s = next_attempt(error, attempt, now, deadline, True, random.Random(seed))
    if wait_s is not None:
        assert wait_s >= (hint_ms or 0) / 1000
        assert now + wait_s < deadline


def test_the_header_carries_whole_milliseconds_and_never_less_than_none() -> None:
    assert remaining_ms(10.5, 10.0) == 500
    assert remaining_ms(10.0, 10.5) == 0
    assert remaining_ms(float("inf"), 0.0) == 2**53 - 1


@given(st.lists(st.sampled_from(["call", "retry", "second"]), max_size=300))
def test_retries_stay_a_share_of_the_calls(steps: list[str]) -> None:
    knobs = RetrySettings(ratio=0.2, floor_per_s=0.5, burst=3.0)
    budget, now, calls, retries = RetryBudget(knobs, 0.0), 0.0, 0, 0
    for step in steps:
        if step == "call":
            budget.deposit()
            calls += 1
        elif step == "second":
            now += 1.0
        else:
            retries += budget.withdraw(now)
        assert retries <= 3.0 + 0.2 * calls + 0.5 * now + 1e-6


def test_an_endpoint_without_calls_still_bears_a_few_retries() -> None:
    budget = RetryBudget(RetrySettings(burst=1.0, floor_per_s=1.0), 0.0)
    assert budget.withdraw(0.0)
    assert not budget.withdraw(0.5)
    assert budget.withdraw(1.0)


def test_calls_earn_retries_back() -> None:
    budget = RetryBudget(RetrySettings(burst=2.0, floor_per_s=0.0, ratio=0.25), 0.0)
    while budget.withdraw(0.0):
        pass
    for _ in range(4):
        budget.deposit()
    assert budget.withdraw(0.0)
    assert not budget.withdraw(0.0)
