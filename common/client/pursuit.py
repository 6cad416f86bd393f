"""How a call is pursued: find the endpoint, ask its breaker, send, and try again only where that can help and fits the budget.

A pursuit is a generator of steps that a face performs: it yields Find, Send and Pause, and is sent their outcomes (or has
their TandemErrors thrown in). Neither face repeats the rule, and the rule never waits.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from common.api.words import AnyVerb
from common.client.guard import Guard
from common.clock import Clock, Rng
from common.errors import DeadlineExceeded, TandemError, Unavailable
from common.resilience.budget import RetrySettings, next_attempt
from common.transport.sockets import Endpoint


@dataclass(frozen=True, slots=True)
class Found:
    """Where the target is, and whether that was remembered (and may be old)."""

    endpoint: Endpoint
    dress: str = "native"
    remembered: bool = False


@dataclass(frozen=True, slots=True)
class Find:
    """Step: find out where `target` is, until `deadline` (monotonic); its outcome is a Found."""

    target: str
    deadline: float


@dataclass(frozen=True, slots=True)
class Send:
    """Step: send the call and await its answer until `deadline` (monotonic); its outcome is the reply."""

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
    """Pursue one call to its reply, or raise the TandemError that ended it; `failed` is how a first attempt ended already."""
    attempt, error = (0, None) if failed is None else (1, failed)
    while True:
        if error is not None:
            if isinstance(error, Unavailable):
                yield Forget(target)
            now = rules.clock.monotonic()
            delay_s = next_attempt(error, attempt, now, deadline, idempotent, rules.rng, rules.retry)
            if delay_s is None:
                raise error
            yield Pause(delay_s)
        attempt += 1
        try:
            found: Found = yield Find(target, deadline)
            return (yield from _attempt(rules, found, verb, request, deadline, attempt))
        except TandemError as raised:
            error = raised


def _attempt(rules: Rules, found: Found, verb: AnyVerb, request: Any, deadline: float, attempt: int) -> Pursuit:
    now = rules.clock.monotonic()
    if now >= deadline:
        raise DeadlineExceeded(f"no time was left to send {verb.name}")
    guards = rules.guard.of(found.endpoint.address, now)
    if attempt == 1:
        guards.retries.deposit()
    elif not guards.retries.withdraw(now):
        raise Unavailable(f"{found.endpoint.address} gets no more retries now: it fails too many calls", exhausted=True)
    permit = rules.guard.permit(guards, now)
    try:
        reply = yield Send(found, verb, request, deadline)
    except TandemError as error:
        ended = rules.clock.monotonic()
        rules.guard.record(guards, permit, error, ended - now, ended)
        raise
    except BaseException:
        guards.breaker.release(permit)
        raise
    ended = rules.clock.monotonic()
    rules.guard.record(guards, permit, None, ended - now, ended)
    return reply
