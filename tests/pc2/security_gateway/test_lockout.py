from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.errors import Overloaded, Unauthenticated
from common.wire.codec import error_body
from pc2.security_gateway.lockout import Limits, Lockout, Pace

PACE = Pace(free=5, first_s=1.0, cap_s=900.0, quiet_s=1_800.0)


def fail(lockout: Lockout, name: str = "bob", host: str = "pc2", now: float = 0.0) -> None:
    lockout.begin(name, host, now)
    lockout.failed(name, host, now)


def guess(lockout: Lockout, name: str, host: str, now: float, tries: int) -> float:
    """So many wrong tries, each as soon as may be; the time after them."""
    for _ in range(tries):
        now += lockout.wait_s(name, host, now)
        fail(lockout, name, host, now)
    return now


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0), (4, 0), (5, 1), (6, 2), (7, 4), (14, 512), (15, 900), (16, 900), (10_000, 900)]
)
def test_after_the_free_tries_each_failure_doubles_the_wait_up_to_the_cap(failures: int, wait_s: float) -> None:
    assert PACE.wait_s(failures) == wait_s


def test_a_wait_is_told_and_ends() -> None:
    lockout = Lockout()
    for _ in range(5):
        fail(lockout)
    with pytest.raises(Unauthenticated, match=r"too many wrong secrets from pc2: try again in 1 s") as caught:
        lockout.begin("bob", "pc2", 0.5)
    assert (caught.value.retry_after_ms, caught.value.can_help_later) == (500, True)
    assert error_body(caught.value).retryable
    assert not error_body(Unauthenticated("the name or the secret is wrong")).retryable
    fail(lockout, now=1.0)
    assert lockout.wait_s("bob", "pc2", 1.0) == 2.0


def test_tries_that_had_to_wait_do_not_make_it_longer() -> None:
    lockout = Lockout()
    for _ in range(5):
        fail(lockout)
    for _ in range(100):
        with pytest.raises(Unauthenticated):
            lockout.begin("bob", "pc2", 0.0)
    assert lockout.wait_s("bob", "pc2", 0.0) == 1.0


def test_a_day_of_guessing_one_identity_from_one_host_is_a_hundred_guesses() -> None:
    lockout, now, guesses = Lockout(), 0.0, 0
    while now < 86_400:
        now = guess(lockout, "bob", "pc2", now, 1)
        guesses += 1
    assert guesses <= 120


def test_the_right_secret_clears_what_was_wrong_before() -> None:
    lockout = Lockout()
    now = guess(lockout, "bob", "pc2", 0.0, 7)
    now += lockout.wait_s("bob", "pc2", now)
    lockout.begin("bob", "pc2", now)
    lockout.succeeded("bob", "pc2")
    for _ in range(4):
        fail(lockout, now=now)
    assert lockout.wait_s("bob", "pc2", now) == 0.0


def test_guesses_on_one_host_keep_nobody_out_who_asks_from_another() -> None:
    lockout = Lockout()
    now = guess(lockout, "operator", "pc2", 0.0, 30)
    assert lockout.wait_s("operator", "pc2", now) > 0
    assert lockout.wait_s("operator", "mainpc", now) == 0.0


def test_a_host_that_guesses_many_names_waits_for_all_of_them_a_minute_at_most() -> None:
    lockout, now = Lockout(), 0.0
    for number in range(40):
        now = guess(lockout, f"name{number}", "pc2", now, 1)
    assert 0 < lockout.wait_s("someone", "pc2", now) <= 60.0
    assert lockout.wait_s("someone", "mainpc", now) == 0.0


def test_who_has_shown_the_secret_from_a_host_does_not_wait_for_what_others_get_wrong_there() -> None:
    lockout, now = Lockout(), 0.0
    lockout.begin("operator", "pc2", now)
    lockout.succeeded("operator", "pc2")
    for number in range(40):
        now = guess(lockout, f"name{number}", "pc2", now, 1)
    lockout.begin("operator", "pc2", now)
    lockout.succeeded("operator", "pc2")
    lockout.forget("operator")
    with pytest.raises(Unauthenticated):
        lockout.begin("operator", "pc2", now)


def test_one_s_own_right_secret_does_not_free_a_host_for_more_guesses_of_others() -> None:
    lockout = Lockout()
    for number in range(19):
        fail(lockout, f"name{number}")
    lockout.begin("mallory", "pc2", 0.0)
    lockout.succeeded("mallory", "pc2")
    fail(lockout, "name20")
    assert lockout.wait_s("someone", "pc2", 0.0) == 1.0


def test_what_has_been_quiet_for_long_is_forgiven() -> None:
    lockout = Lockout()
    now = guess(lockout, "bob", "pc2", 0.0, 12)
    now += 900 + 1_800
    for _ in range(4):
        fail(lockout, now=now)
    assert lockout.wait_s("bob", "pc2", now) == 0.0


def test_no_more_tries_are_under_way_at_once_than_are_free() -> None:
    lockout = Lockout()
    fail(lockout)
    for _ in range(4):
        lockout.begin("bob", "pc2", 0.0)
    with pytest.raises(Overloaded, match="still being checked"):
        lockout.begin("bob", "pc2", 0.0)
    lockout.begin("bob", "mainpc", 0.0)
    for _ in range(4):
        lockout.failed("bob", "pc2", 0.0)
    assert lockout.wait_s("bob", "pc2", 0.0) == 1.0
    lockout.begin("bob", "pc2", 1.0)
    with pytest.raises(Overloaded):
        lockout.begin("bob", "pc2", 1.0)


def test_a_host_has_so_many_tries_under_way_whatever_the_names() -> None:
    lockout = Lockout()
    for number in range(20):
        lockout.begin(f"name{number}", "pc2", 0.0)
    with pytest.raises(Overloaded):
        lockout.begin("another", "pc2", 0.0)


def test_a_try_that_was_never_made_counts_for_nothing() -> None:
    lockout = Lockout()
    for _ in range(100):
        lockout.begin("bob", "pc2", 0.0)
        lockout.dropped("bob", "pc2")
    assert lockout.wait_s("bob", "pc2", 0.0) == 0.0
    assert len(lockout) == 0


def test_of_too_many_keys_the_quietest_is_forgotten_first_and_none_that_is_being_tried() -> None:
    limits = Limits(host=Pace(free=10_000, first_s=1.0, cap_s=1.0, quiet_s=1.0), remembered=2, proven=1)
    lockout = Lockout(limits)
    for _ in range(5):
        fail(lockout, "old")
    for _ in range(5):
        fail(lockout, "new")
    lockout.begin("tried", "pc2", 0.0)
    fail(lockout, "newest")
    assert lockout.wait_s("old", "pc2", 0.0) == 0.0
    assert lockout.wait_s("new", "pc2", 0.0) == 0.0
    lockout.begin("also", "pc2", 0.0)
    lockout.begin("third", "pc2", 0.0)
    lockout.failed("third", "pc2", 0.0)
    lockout.failed("also", "pc2", 0.0)
    lockout.failed("tried", "pc2", 0.0)
    assert len(lockout) <= 3


def test_where_all_are_being_tried_none_is_forgotten() -> None:
    lockout = Lockout(Limits(remembered=1))
    for name in ("one", "one", "two"):
        lockout.begin(name, "pc2", 0.0)
    lockout.failed("one", "pc2", 0.0)
    assert len(lockout._pairs) == 2
    lockout.failed("one", "pc2", 0.0)
    lockout.failed("two", "pc2", 0.0)
    assert len(lockout._pairs) == 1


def test_those_who_have_proven_themselves_are_bounded_too() -> None:
    lockout = Lockout(Limits(proven=1))
    for name in ("one", "two"):
        lockout.begin(name, "pc2", 0.0)
        lockout.succeeded(name, "pc2")
    assert list(lockout._proven) == [("two", "pc2")]


class Guessing(RuleBasedStateMachine):
    """Any order of tries and endings: counts never go wrong, and what waits, waits no longer than the cap."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(remembered=4, proven=2)
        self.lockout = Lockout(self.limits)
        self.now = 0.0
        self.under_way: list[tuple[str, str]] = []

    @rule(name=st.sampled_from("abcdef"), host=st.sampled_from(["pc2", "mainpc"]))
    def begin(self, name: str, host: str) -> None:
        try:
            self.lockout.begin(name, host, self.now)
        except (Unauthenticated, Overloaded):
            return
        self.under_way.append((name, host))

    @rule(data=st.data(), how=st.sampled_from(["failed", "succeeded", "dropped"]))
    def end(self, data: st.DataObject, how: str) -> None:
        if not self.under_way:
            return
        name, host = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        if how == "failed":
            self.lockout.failed(name, host, self.now)
        elif how == "succeeded":
            self.lockout.succeeded(name, host)
        else:
            self.lockout.dropped(name, host)

    @rule(seconds=st.floats(0, 4_000))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nobody_waits_longer_than_the_cap(self) -> None:
        for name in "abcdef":
            assert 0.0 <= self.lockout.wait_s(name, "pc2", self.now) <= self.limits.identity.cap_s

    @invariant()
    def each_try_under_way_is_counted_once(self) -> None:
        pending = {key: tries.pending for key, tries in self.lockout._pairs._tries.items() if tries.pending}
        assert pending == {pair: self.under_way.count(pair) for pair in set(self.under_way)}

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.lockout._pairs) <= self.limits.remembered + len(self.under_way)


Guessing.TestCase.settings = settings(stateful_step_count=40)
TestGuessing = Guessing.TestCase


@given(st.integers(0, 100))
def test_a_wait_never_shrinks_with_more_failures(failures: int) -> None:
    assert PACE.wait_s(failures) <= PACE.wait_s(failures + 1)
