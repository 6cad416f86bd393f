from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadRequest, Forbidden, Internal, Overloaded, TandemError, TooLarge, Unavailable
from common.reporting.delivery import BASE_S, BATCH, BUGS, CAP_S, RATE_PER_S, Pace, refuses_content

RNG = random.Random(1)


def test_batches_leave_no_faster_than_the_rate() -> None:
    pace = Pace()
    pace.taken(500, now=10.0)
    assert pace.not_before == 10.0 + 500 / RATE_PER_S


@given(st.integers(1, 60), st.integers())
def test_failures_in_a_row_back_off_to_a_cap_with_jitter(failures: int, seed: int) -> None:
    pace, rng = Pace(), random.Random(seed)
    for _ in range(failures):
        assert pace.refused(Unavailable("away"), 3, 100.0, rng) == "again"
    most = min(CAP_S, BASE_S * 2.0 ** (failures - 1))
    assert 100.0 + most / 2 <= pace.not_before <= 100.0 + most
    assert pace.batch == BATCH
    pace.taken(1, 100.0)
    assert pace.failures == 0


def test_the_receivers_own_hint_is_kept_to_but_not_for_ever() -> None:
    pace = Pace()
    pace.refused(Overloaded("full", retry_after_ms=700), 1, 0.0, RNG)
    assert 0.7 < pace.not_before <= 0.7 + BASE_S
    pace.refused(Overloaded("full", retry_after_ms=10**9), 1, 0.0, RNG)
    assert pace.not_before < 31


@pytest.mark.parametrize("error", [BadRequest("odd"), TooLarge("much")])
def test_what_is_refused_for_what_it_says_is_halved_until_one_record_is_given_up(error: TandemError) -> None:
    pace, sizes, count = Pace(), [], 100
    assert refuses_content(error)
    while pace.refused(error, count, 5.0, RNG) == "again":
        assert pace.not_before == 5.0
        count = pace.batch
        sizes.append(count)
    assert sizes == [50, 25, 12, 6, 3, 1]
    pace.taken(1, 5.0)
    assert pace.batch == 2


def test_a_lone_record_that_the_receiver_stumbles_over_is_given_up_after_some_tries() -> None:
    pace = Pace()
    assert pace.refused(Internal("a bug"), 2, 0.0, RNG) == "again"
    pace.failures = 0
    verdicts = [pace.refused(Internal("a bug"), 1, 0.0, RNG) for _ in range(BUGS)]
    assert verdicts == ["again"] * (BUGS - 1) + ["give_up"]


def test_a_refusal_that_a_person_can_mend_is_waited_out() -> None:
    pace = Pace()
    assert not refuses_content(Forbidden("no"))
    for _ in range(50):
        assert pace.refused(Forbidden("no"), 1, 0.0, RNG) == "again"
