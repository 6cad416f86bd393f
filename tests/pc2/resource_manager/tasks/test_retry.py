from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dispatch.answers import NOTHING_DONE
from common.errors import BY_CODE, Code, Internal, Overloaded, TandemError, Unavailable
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.retry import HOPELESS, MOST_ASKED_S, verdict
from pc2.resource_manager.tasks.task import Ended, Returned, Task

LIMITS = Limits(backoff_s=1.0, backoff_max_s=60.0, refused_max_s=5.0)


def task(**changes: Any) -> Task:
    known: dict[str, Any] = {
        "task_id": "task-1", "seq": 1, "capability": "say", "priority": 50, "max_attempts": 3, "timeout_s": 1.0,
        "retain_s": 1.0, "queued_at": 0.0, "run_at": 0.0, "state": "running", "attempts": 1, "runs": 1, "agent_name": "a",
    }  # fmt: skip
    return Task(**(known | changes))


class Always:
    """Dice that always show the same."""

    def __init__(self, shown: float) -> None:
        self._shown = shown

    def random(self) -> float:
        return self._shown

    def getrandbits(self, k: int, /) -> int:
        return 0


@pytest.mark.parametrize("code", sorted(Code))
def test_every_code_has_its_verdict(code: Code) -> None:
    found = verdict(task(), BY_CODE[code]("why"), LIMITS, Always(0.5))
    if code in HOPELESS:
        assert found == Ended("task-1", "failed", code, "why")
    else:
        assert isinstance(found, Returned)
        assert found.counted is (code not in NOTHING_DONE)
        assert found.why == "attempt 1 at a: why"


def test_the_last_attempt_that_fails_is_the_tasks_death() -> None:
    found = verdict(task(attempts=3), Internal("why"), LIMITS, Always(0.5))
    assert found == Ended("task-1", "dead", "internal", "3 attempts came to nothing; the last: why")


def test_an_agent_that_did_nothing_costs_no_attempt_not_even_the_last() -> None:
    found = verdict(task(attempts=3), Unavailable("away"), LIMITS, Always(0.5))
    assert isinstance(found, Returned)
    assert not found.counted


def test_of_a_long_message_the_beginning_is_kept() -> None:
    found = verdict(task(attempts=3), Internal("x" * 10_000), LIMITS, Always(0.5))
    assert isinstance(found, Ended)
    assert len(found.error) < 2_100


def delay(error: TandemError, dice: Any = None, **changes: Any) -> float:
    found = verdict(task(max_attempts=1_000, **changes), error, LIMITS, dice or Always(1.0))
    assert isinstance(found, Returned)
    return found.delay_s


def test_back_off_doubles_up_to_its_bound() -> None:
    assert [delay(Internal("x"), attempts=n) for n in (1, 2, 3, 7, 900)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    assert [delay(Unavailable("x"), runs=n) for n in (1, 2, 3, 4, 900)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_the_agent_asked_for_comes_on_top() -> None:
    assert delay(Overloaded("x", retry_after_ms=2_500), Always(0.0)) == 2.5


def test_no_agent_puts_a_task_off_for_ever() -> None:
    assert delay(Overloaded("x", retry_after_ms=2**53 - 1), Always(0.0)) == MOST_ASKED_S


@given(st.integers(1, 100), st.integers())
def test_jitter_is_full_and_never_beyond_the_bound(attempts: int, seed: int) -> None:
    assert 0.0 <= delay(Internal("x"), random.Random(seed), attempts=attempts) <= min(60.0, 2.0 ** (attempts - 1))
