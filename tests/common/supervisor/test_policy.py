from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.schema import Restart
from common.config.units import Duration
from common.supervisor.policy import End, GiveUp, Leave, Record, Retry, after_end, backoff_s

EVEN = Restart(delay_s=Duration(1), backoff=2, max_delay_s=Duration(5), jitter=0, attempts=3, interval_s=Duration(60))


def end(at: float = 0.0, code: int | None = 1, ready_s: float = 0.0, in_time: bool = True) -> End:
    return End(at, code, ready_s, in_time)


@pytest.mark.parametrize(
    ("when", "code", "in_time", "again"),
    [
        ("never", 1, True, False),
        ("never", 0, True, False),
        ("on-failure", 0, True, False),
        ("on-failure", 0, False, True),
        ("on-failure", 1, True, True),
        ("on-failure", -9, True, True),
        ("on-failure", None, True, True),
        ("always", 0, True, True),
    ],
)
def test_the_policy_says_which_ends_are_followed_by_a_start(
    when: str, code: int | None, in_time: bool, again: bool
) -> None:
    policy = Restart(when=when)  # type: ignore[arg-type]
    verdict = after_end(policy, Record(), end(code=code, in_time=in_time), random.Random(1))
    assert isinstance(verdict, Retry if again else Leave)


def test_delays_double_up_to_their_bound() -> None:
    assert [backoff_s(EVEN, number, random.Random(1)) for number in range(1, 6)] == [1, 2, 4, 5, 5]
    assert backoff_s(EVEN, 10_000, random.Random(1)) == 5


@given(st.integers(1, 50), st.integers(0, 2**32), st.floats(0, 1))
def test_jitter_scatters_within_its_fraction(number: int, seed: int, jitter: float) -> None:
    policy = Restart(delay_s=Duration(1), jitter=jitter, max_delay_s=Duration(8))
    even = min(8, 2 ** (number - 1))
    assert even * (1 - jitter) - 1e-9 <= backoff_s(policy, number, random.Random(seed)) <= even * (1 + jitter) + 1e-9


def test_too_many_ends_within_the_interval_are_a_crash_loop() -> None:
    record, numbers = Record(), []
    for at in (0.0, 1.0, 2.0):
        verdict = after_end(EVEN, record, end(at), random.Random(1))
        assert isinstance(verdict, Retry)
        record = verdict.record
        numbers.append((verdict.number, verdict.delay_s))
    assert numbers == [(1, 1), (2, 2), (3, 4)]
    assert after_end(EVEN, record, end(3.0), random.Random(1)) == GiveUp("ended 4 times within 60 s")


def test_ends_outside_the_interval_no_longer_count() -> None:
    record = Record((0.0, 1.0, 2.0), 3)
    verdict = after_end(EVEN, record, end(61.5), random.Random(1))
    assert isinstance(verdict, Retry)
    assert verdict.number == 2
    assert verdict.delay_s == 5


def test_a_stretch_of_readiness_forgives_what_was_before() -> None:
    record = Record((0.0, 1.0, 2.0), 3)
    verdict = after_end(EVEN, record, end(15.0, ready_s=10), random.Random(1))
    assert verdict == Retry(Record((15.0,), 1), 1.0, 1)
    assert isinstance(after_end(EVEN, record, end(15.0, ready_s=9.9), random.Random(1)), GiveUp)


def test_no_attempts_means_no_restart() -> None:
    assert isinstance(after_end(Restart(attempts=0), Record(), end(), random.Random(1)), GiveUp)
