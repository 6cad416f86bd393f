from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import BY_CODE, BadRequest, Code, NoCapacity, Overloaded, Unavailable
from common.resilience.breaker import (
    NEXT,
    Breaker,
    BreakerSettings,
    Event,
    Permit,
    Refusal,
    State,
    Transition,
    Weight,
    weighs,
)

SETTINGS = BreakerSettings(
    window_calls=10,
    window_s=10.0,
    min_calls=4,
    failure_rate=0.5,
    slow_rate=0.75,
    slow_call_s=1.0,
    cooldown_s=2.0,
    cooldown_max_s=12.0,
    jitter=0.0,
    probes=2,
    probe_s=30.0,
)


def breaker(settings: BreakerSettings = SETTINGS) -> Breaker:
    return Breaker("mainpc:7000", settings, random.Random(7))


def leave(it: Breaker, now: float) -> Permit:
    permit = it.permit(now)
    assert isinstance(permit, Permit)
    return permit


def call(it: Breaker, weight: Weight, now: float, elapsed_s: float = 0.01) -> Transition | None:
    return it.record(leave(it, now), weight, elapsed_s, now)


def opened(now: float = 0.0) -> Breaker:
    it = breaker()
    for _ in range(4):
        call(it, Weight.FAILURE, now)
    assert it.state is State.OPEN
    return it


def test_it_opens_when_enough_calls_failed_and_says_what_it_saw() -> None:
    it = breaker()
    call(it, Weight.SUCCESS, 0.0)
    call(it, Weight.SUCCESS, 0.0)
    assert call(it, Weight.FAILURE, 1.0) is None
    moved = call(it, Weight.FAILURE, 1.0)
    assert moved == Transition(
        endpoint="mainpc:7000",
        was=State.CLOSED,
        state=State.OPEN,
        event=Event.TRIPPED,
        calls=4,
        failures=2,
        slow=0,
        cooldown_s=2.0,
    )
    assert it.permit(1.5) == Refusal(1.5)


def test_it_stays_closed_below_the_minimum_of_calls() -> None:
    it = breaker()
    for _ in range(3):
        call(it, Weight.FAILURE, 0.0)
    assert it.state is State.CLOSED


def test_it_opens_when_most_calls_are_slow_though_none_failed() -> None:
    it = breaker()
    for _ in range(4):
        call(it, Weight.SUCCESS, 0.0, elapsed_s=1.0)
    assert it.state is State.OPEN


def test_failures_older_than_the_window_do_not_count() -> None:
    it = breaker()
    for _ in range(3):
        call(it, Weight.FAILURE, 0.0)
    call(it, Weight.FAILURE, 10.0)
    assert it.state is State.CLOSED
    assert it.stats(10.0).failures == 1


def test_failures_among_many_successes_do_not_open_it() -> None:
    it = breaker()
    for second in range(100):
        call(it, Weight.FAILURE if second % 3 == 2 else Weight.SUCCESS, second / 10)
    assert it.state is State.CLOSED


def test_neutral_outcomes_never_trip() -> None:
    it = breaker()
    for _ in range(1000):
        assert call(it, Weight.NEUTRAL, 0.0, elapsed_s=100.0) is None
    assert it.stats(0.0).calls == 0


def test_it_closes_when_all_probes_passed() -> None:
    it = opened()
    first = leave(it, 2.0)
    assert first.transition is not None
    assert first.transition.state is State.HALF_OPEN
    second = leave(it, 2.0)
    assert second.transition is None
    assert isinstance(it.permit(2.0), Refusal)
    assert it.record(first, Weight.SUCCESS, 0.1, 2.1) is None
    moved = it.record(second, Weight.SUCCESS, 0.1, 2.1)
    assert moved is not None
    assert (moved.state, moved.event) == (State.CLOSED, Event.PROBES_PASSED)
    assert it.stats(2.1).calls == 0


def test_a_failed_probe_opens_it_again_for_twice_as_long_up_to_the_maximum() -> None:
    it, now, cooldowns = opened(), 0.0, []
    for _ in range(5):
        now += it.stats(now).retry_in_s
        moved = call(it, Weight.FAILURE, now)
        assert moved is not None
        cooldowns.append(moved.cooldown_s)
    assert cooldowns == [4.0, 8.0, 12.0, 12.0, 12.0]


def test_closing_resets_the_cool_down() -> None:
    it = opened()
    call(it, Weight.FAILURE, 2.0)
    for _ in range(2):
        call(it, Weight.SUCCESS, 6.0)
    assert it.state is State.CLOSED
    for _ in range(4):
        call(it, Weight.FAILURE, 7.0)
    assert it.stats(7.0).retry_in_s == 2.0
    assert it.stats(7.0).opened == 3


def test_when_it_is_tried_again_is_a_moment_that_stays_where_it_is() -> None:
    it = opened()
    at = it.retry_at
    assert at > 0
    assert isinstance(it.permit(at), Permit)
    assert it.retry_at == 0.0


def test_slow_probes_open_it_again() -> None:
    it = opened()
    call(it, Weight.SUCCESS, 2.0, elapsed_s=5.0)
    moved = call(it, Weight.SUCCESS, 2.0, elapsed_s=5.0)
    assert moved is not None
    assert moved.event is Event.PROBE_FAILED


def test_probes_of_which_just_as_many_were_slow_as_are_too_many_open_it_again() -> None:
    it = breaker(msgspec.structs.replace(SETTINGS, slow_rate=0.5))
    for _ in range(4):
        call(it, Weight.FAILURE, 0.0)
    call(it, Weight.SUCCESS, 2.0, elapsed_s=1.0)
    moved = call(it, Weight.SUCCESS, 2.0)
    assert moved is not None
    assert moved.event is Event.PROBE_FAILED


def test_a_probe_that_says_nothing_gives_its_slot_back() -> None:
    it = opened()
    for _ in range(10):
        call(it, Weight.NEUTRAL, 2.0)
        it.release(leave(it, 2.0))
    assert it.state is State.HALF_OPEN
    assert isinstance(it.permit(2.0), Permit)


def test_a_lost_probes_slot_is_free_after_a_while() -> None:
    it = opened()
    lost, held = leave(it, 2.0), leave(it, 3.0)
    assert it.permit(3.0) == Refusal(29.0)
    leave(it, 32.0)
    assert it.permit(32.5) == Refusal(0.5)
    assert it.record(lost, Weight.FAILURE, 30.0, 32.5) is None
    assert it.record(held, Weight.SUCCESS, 0.1, 32.5) is None
    assert it.state is State.HALF_OPEN


def test_an_outcome_from_before_the_last_change_is_stale() -> None:
    it = breaker()
    early = leave(it, 0.0)
    for _ in range(4):
        call(it, Weight.FAILURE, 0.0)
    assert it.record(early, Weight.FAILURE, 0.1, 0.5) is None
    for _ in range(2):
        call(it, Weight.SUCCESS, 2.0)
    it.record(early, Weight.FAILURE, 0.1, 2.0)
    assert it.stats(2.0).calls == 0


def test_releasing_a_call_of_a_closed_breaker_leaves_no_trace() -> None:
    it = breaker()
    it.release(leave(it, 0.0))
    assert it.stats(0.0).calls == 0


def test_jitter_only_shortens_the_cool_down() -> None:
    it = breaker(msgspec.structs.replace(SETTINGS, jitter=0.5))
    for _ in range(4):
        call(it, Weight.FAILURE, 0.0)
    assert 1.0 < it.stats(0.0).retry_in_s <= 2.0


def test_only_the_endpoints_own_trouble_is_a_failure() -> None:
    failures = {kind.code for kind in BY_CODE.values() if weighs(kind("it failed")) is Weight.FAILURE}
    assert failures == {
        Code.UNAVAILABLE,
        Code.INTERRUPTED,
        Code.DEADLINE_EXCEEDED,
        Code.STORAGE_UNAVAILABLE,
        Code.INTERNAL,
    }
    assert weighs(Overloaded("busy")) is weighs(NoCapacity("full")) is weighs(BadRequest("no")) is Weight.NEUTRAL
    assert weighs(None) is Weight.SUCCESS


def test_who_answers_for_another_that_failed_has_not_failed() -> None:
    assert weighs(Unavailable("mainpc is silent", behind="mainpc")) is Weight.NEUTRAL


@pytest.mark.parametrize("knobs", [{"min_calls": 11, "window_calls": 10}, {"cooldown_s": 40.0}])
def test_settings_that_contradict_each_other_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(knobs, BreakerSettings)


def test_settings_at_their_bounds_are_taken_and_those_it_has_by_itself_lie_within_them() -> None:
    knobs = {"min_calls": 10, "window_calls": 10, "cooldown_s": 30.0, "cooldown_max_s": 30.0}
    assert msgspec.to_builtins(msgspec.convert(knobs, BreakerSettings)).items() >= knobs.items()
    own = BreakerSettings()
    assert msgspec.convert(msgspec.to_builtins(own), BreakerSettings) == own


class BreakerMachine(RuleBasedStateMachine):
    """Calls come and end in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.it = breaker(msgspec.structs.replace(SETTINGS, jitter=0.3))
        self.held: list[Permit] = []
        self.probing: list[Permit] = []
        self.retry_at = 0.0
        self.counted = False

    def moved(self, transition: Transition | None) -> None:
        if transition is None:
            return
        assert NEXT[transition.was, transition.event] is transition.state is self.it.state
        self.probing = []
        if transition.state is State.OPEN:
            assert self.counted
            self.retry_at = self.now + transition.cooldown_s
        if transition.state is State.CLOSED:
            self.counted = False

    @rule(wait_s=st.floats(0.0, 3.0))
    def time_passes(self, wait_s: float) -> None:
        self.now += wait_s

    @rule()
    def a_call_asks(self) -> None:
        before = self.it.state
        answer = self.it.permit(self.now)
        if isinstance(answer, Refusal):
            assert before is not State.CLOSED
            assert answer.retry_in_s > 0
            return
        assert self.now >= self.retry_at
        self.held.append(answer)
        self.moved(answer.transition)
        if self.it.state is State.HALF_OPEN:
            self.probing.append(answer)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), weight=st.sampled_from(Weight), elapsed_s=st.sampled_from([0.1, 2.0]))
    def a_call_ends(self, data: st.DataObject, weight: Weight, elapsed_s: float) -> None:
        permit = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.counted |= weight is Weight.FAILURE or elapsed_s > 1
        if permit in self.probing:
            self.probing.remove(permit)
        transition = self.it.record(permit, weight, elapsed_s, self.now)
        assert transition is None or weight is not Weight.NEUTRAL
        self.moved(transition)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_call_is_cancelled(self, data: st.DataObject) -> None:
        permit = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if permit in self.probing:
            self.probing.remove(permit)
        self.it.release(permit)

    @invariant()
    def no_more_probes_than_allowed(self) -> None:
        living = [probe for probe in self.probing if self.it._probes.get(probe, 0.0) > self.now]
        assert len(living) <= SETTINGS.probes
        assert len(self.it._probes) <= SETTINGS.probes

    @invariant()
    def the_figures_add_up(self) -> None:
        stats = self.it.stats(self.now)
        assert max(stats.failures, stats.slow) <= stats.calls <= SETTINGS.window_calls
        assert stats.state == self.it.state.value


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
