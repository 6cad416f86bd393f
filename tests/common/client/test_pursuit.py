from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.api.words import Access, Empty, Verb
from common.client.guard import MAX_ENDPOINTS, Guard
from common.client.pursuit import Find, Forget, Found, Pause, Rules, Send, Step, pursue
from common.errors import (
    BY_CODE,
    BadRequest,
    Code,
    DeadlineExceeded,
    Interrupted,
    NotFound,
    Overloaded,
    TandemError,
    Unavailable,
)
from common.resilience.breaker import BreakerSettings
from common.resilience.budget import RetrySettings
from common.transport.sockets import Endpoint

VERB = Verb("v", Empty, Empty, Access.USE)
HERE = Found(Endpoint.tcp("127.0.0.1", 1))


class ManualClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Face:
    """Performs a pursuit as a client would, by hand; `outcomes` are what sending brings, one after the other."""

    def __init__(self, *outcomes: object, retry: RetrySettings | None = None, took_s: float = 0.01) -> None:
        self.clock = ManualClock()
        retry = retry or RetrySettings()
        self.guard = Guard(random.Random(1), BreakerSettings(min_calls=4), retry)
        self.rules = Rules(self.clock, random.Random(2), self.guard, retry)
        self.outcomes = list(outcomes)
        self.took_s = took_s
        self.steps: list[Step] = []
        self.find: Callable[[], Found] = lambda: HERE

    def pursue(self, *, idempotent: bool = True, budget_s: float = 30.0) -> Any:
        pursuit = pursue(self.rules, "t", VERB, Empty(), self.clock.now + budget_s, idempotent)
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = pursuit.send(outcome) if error is None else pursuit.throw(error)
            except StopIteration as end:
                return end.value
            self.steps.append(step)
            outcome = error = None
            try:
                outcome = self.perform(step)
            except BaseException as raised:
                error = raised

    def perform(self, step: Step) -> Any:
        if isinstance(step, Find):
            return self.find()
        if isinstance(step, Pause):
            self.clock.now += step.seconds
        if isinstance(step, Send):
            self.clock.now += self.took_s
            outcome = self.outcomes.pop(0) if self.outcomes else "done"
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome
        return None

    def sent(self) -> int:
        return sum(isinstance(step, Send) for step in self.steps)


def test_a_call_that_succeeds_is_found_and_sent_once() -> None:
    face = Face("reply")
    assert face.pursue() == "reply"
    assert [type(step) for step in face.steps] == [Find, Send]


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("idempotent", [True, False])
def test_only_what_can_help_is_sent_again(code: Code, idempotent: bool) -> None:
    again = code in (Code.OVERLOADED, Code.UNAVAILABLE, Code.STORAGE_UNAVAILABLE) or (
        code is Code.INTERRUPTED and idempotent
    )
    face = Face(BY_CODE[code]("no"), "reply")
    if again:
        assert face.pursue(idempotent=idempotent) == "reply"
        assert face.sent() == 2
    else:
        with pytest.raises(TandemError) as caught:
            face.pursue(idempotent=idempotent)
        assert caught.value.code is code
        assert face.sent() == 1


def test_what_was_remembered_of_a_target_that_is_not_there_is_forgotten_before_it_is_found_anew() -> None:
    face = Face(Unavailable("gone"), "reply")
    face.pursue()
    assert [type(step) for step in face.steps] == [Find, Send, Forget, Pause, Find, Send]


def test_a_target_that_cannot_be_found_is_the_callers_error() -> None:
    face = Face()

    def nowhere() -> Found:
        raise NotFound("no agent t")

    face.find = nowhere
    with pytest.raises(NotFound):
        face.pursue()
    assert face.sent() == 0


def test_a_look_up_that_failed_was_pursued_already_and_is_not_made_again() -> None:
    face = Face()

    def away() -> Found:
        raise Unavailable("the registry is away")

    face.find = away
    with pytest.raises(Unavailable, match="registry"):
        face.pursue()
    assert [type(step) for step in face.steps] == [Find]


def test_attempts_are_bounded() -> None:
    face = Face(*[Interrupted("lost")] * 10, retry=RetrySettings(attempts=3))
    with pytest.raises(Interrupted):
        face.pursue()
    assert face.sent() == 3


def test_no_time_left_sends_nothing() -> None:
    face = Face()
    with pytest.raises(DeadlineExceeded, match="no time was left"):
        face.pursue(budget_s=0.0)
    assert face.sent() == 0


def test_a_hint_beyond_the_deadline_ends_the_call_at_once() -> None:
    face = Face(Overloaded("busy", retry_after_ms=60_000))
    with pytest.raises(Overloaded):
        face.pursue(budget_s=30.0)
    assert face.sent() == 1


def test_an_endpoint_that_fails_too_often_gets_no_more_retries() -> None:
    retry = RetrySettings(ratio=0.0, floor_per_s=0.0, burst=1.0)
    face = Face(*[Overloaded("busy")] * 10, retry=retry)
    with pytest.raises(Overloaded, match="busy"):
        face.pursue()
    assert face.sent() == 2


def test_a_retry_that_the_endpoint_cannot_bear_hides_no_interruption() -> None:
    retry = RetrySettings(ratio=0.0, floor_per_s=0.0, burst=1.0)
    face = Face(*[Interrupted("it may have been done")] * 10, retry=retry)
    with pytest.raises(Interrupted, match="may have been done"):
        face.pursue()
    assert face.sent() == 2


def test_the_breaker_opens_refuses_and_lets_probes_decide() -> None:
    retry = RetrySettings(attempts=1)
    face = Face(*[Interrupted("lost")] * 4, retry=retry)
    for _ in range(4):
        with pytest.raises(Interrupted):
            face.pursue()
    with pytest.raises(Unavailable, match=r"breaker of .* is open") as caught:
        face.pursue()
    assert caught.value.details == {"breaker": "open"}
    assert caught.value.retry_after_ms is not None
    assert face.sent() == 4
    (stats,) = face.guard.stats(face.clock.now)
    assert (stats.endpoint, stats.state, stats.failures, stats.opened) == (HERE.endpoint.address, "open", 4, 1)
    face.clock.now += 60
    for _ in range(3):
        assert face.pursue() == "done"
    assert face.guard.stats(face.clock.now)[0].state == "closed"


@pytest.mark.parametrize("error", [Overloaded("busy"), BadRequest("no"), NotFound("no")])
def test_overload_and_callers_mistakes_do_not_trip_the_breaker(error: TandemError) -> None:
    face = Face(*[error] * 20, retry=RetrySettings(attempts=1))
    for _ in range(20):
        with pytest.raises(type(error)):
            face.pursue()
    assert face.guard.stats(face.clock.now)[0].state == "closed"


def test_a_probe_whose_call_was_cancelled_gives_its_place_back() -> None:
    face = Face(*[Interrupted("lost")] * 4, *[KeyboardInterrupt()] * 5, retry=RetrySettings(attempts=1))
    for _ in range(4):
        with pytest.raises(Interrupted):
            face.pursue()
    face.clock.now += 60
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            face.pursue()
    assert face.pursue() == "done"


def test_the_endpoints_remembered_are_bounded() -> None:
    guard = Guard(random.Random(1), BreakerSettings(), RetrySettings())
    for number in range(MAX_ENDPOINTS + 10):
        guard.of(f"tcp://{number}", 0.0)
    assert len(guard.stats(0.0)) == MAX_ENDPOINTS


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([*Code, None]), max_size=8),
    st.floats(0.01, 5.0),
    st.floats(0.001, 2.0),
    st.booleans(),
    st.integers(0, 3_000),
)
def test_whatever_comes_a_pursuit_ends_and_never_pauses_beyond_its_deadline(
    codes: list[Code | None], budget_s: float, took_s: float, idempotent: bool, hint_ms: int
) -> None:
    outcomes = [None if code is None else BY_CODE[code]("x", retry_after_ms=hint_ms or None) for code in codes]
    face = Face(*outcomes, took_s=took_s)
    deadline = face.clock.now + budget_s
    with suppress(TandemError):
        face.pursue(idempotent=idempotent, budget_s=budget_s)
    assert face.sent() <= RetrySettings().attempts
    last = next((step for step in reversed(face.steps) if isinstance(step, Send)), None)
    assert last is None or last.deadline == deadline
    assert face.clock.now <= deadline + took_s
