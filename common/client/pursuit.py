"""How a call is pursued: find the endpoint, ask its breaker, send, and try again only where that can help and fits the budget.

A pursuit is a generator of steps that a face performs: it yields Find, Send and Pause, and is sent their outcomes (or has
their TandemErrors thrown in). Neither face repeats the rule, and the rule never waits.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from common.api.words import AnyVerb
from common.client.guard import Endangered, Guard
from common.clock import Clock, Rng
from common.errors import DeadlineExceeded, TandemError, Unavailable
from common.resilience.budget import RetrySettings, next_attempt
from common.transport.sockets import Endpoint


@dataclass(frozen=True, slots=True)
class Found:
    """Where the target is, and which dress it speaks."""

    endpoint: Endpoint
    dress: str = "native"


@dataclass(frozen=True, slots=True)
class Find:
    """Step: find out where `target` is, until `deadline` (monotonic); its outcome is a Found."""

    target: str
    deadline: float


@dataclass(frozen=True, slots=True)
class Send:
    """Step: send the call and await its answer until `deadline` (monotonic); its outcome is the reply."""

    target: str
    found: Found
    verb: AnyVerb
    request: Any
    deadline: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Step: let `seconds` pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Forget:
    """Step: what was remembered of `target` may be old; no outcome."""

    target: str


Step = Find | Send | Pause | Forget
Pursuit = Generator[Step, Any, Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """What every pursuit of one client goes by."""

    clock: Clock
    rng: Rng
    guard: Guard
    retry: RetrySettings


def pursue(
    rules: Rules,
    target: str,
    verb: AnyVerb,
    request: Any,
    deadline: float,
    idempotent: bool,
    failed: TandemError | None = None,
) -> Pursuit:
    """Pursue one call to its reply, or raise the TandemError that ended it; `failed` is how a first attempt ended already.

    An endpoint that bears no more retries gets none: the error of the last attempt is the caller's. So is that of a target
    which cannot be found, for finding it is a call of its own, pursued already.
    """
    attempt, error = (0, None) if failed is None else (1, failed)
    while True:
        if error is not None:
            yield from _await_turn(rules, target, error, attempt, deadline, idempotent)
        attempt += 1
        found: Found = yield Find(target, deadline)
        guards = rules.guard.of(found.endpoint.address, rules.clock.monotonic())
        if error is None:
            guards.retries.deposit()
        elif not guards.retries.withdraw(rules.clock.monotonic()):
            raise error
        try:
            return (yield from _attempt(rules, guards, Send(target, found, verb, request, deadline)))
        except TandemError as raised:
            error = raised


def _await_turn(
    rules: Rules, target: str, error: TandemError, attempt: int, deadline: float, idempotent: bool
) -> Pursuit:
    """Let the time before another attempt pass; raises the error where none can help, or fit."""
    if isinstance(error, Unavailable):
        yield Forget(target)
    now = rules.clock.monotonic()
    delay_s = next_attempt(error, attempt, now, deadline, idempotent, rules.rng, rules.retry)
    if delay_s is None:
        raise error
    yield Pause(delay_s)


def _attempt(rules: Rules, guards: Endangered, send: Send) -> Pursuit:
    if rules.clock.monotonic() >= send.deadline:
        raise DeadlineExceeded(f"no time was left to send {send.verb.name}")
    with rules.guard.attempt(guards, rules.clock):
        return (yield send)
