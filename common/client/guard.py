"""Per endpoint: its breaker and its retry budget; who may be called, and what a call's end says about it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from common.api.basic import BreakerStats
from common.clock import Clock, Rng
from common.errors import TandemError, Unavailable
from common.resilience.breaker import Breaker, BreakerSettings, Permit, Refusal, State, Transition, weighs
from common.resilience.budget import RetryBudget, RetrySettings

MAX_ENDPOINTS: Final = 16_384
"""Endpoints remembered, more than a registry holds agents; the one met first is forgotten first."""


@dataclass(frozen=True, slots=True)
class Endangered:
    """One endpoint's guards."""

    breaker: Breaker
    retries: RetryBudget


@dataclass(slots=True)
class Attempt:
    """One call under way. `answered_at` is set by who gets its answer in pieces: how long the rest takes is no slowness."""

    answered_at: float | None = None


class Guard:
    """The guards of every endpoint a client calls."""

    def __init__(self, rng: Rng, breaker: BreakerSettings, retry: RetrySettings) -> None:
        self._rng = rng
        self._breaker = breaker
        self._retry = retry
        self._endpoints: dict[str, Endangered] = {}
        self._log = logging.getLogger("tandem.client")

    def of(self, address: str, now: float) -> Endangered:
        """The guards of an endpoint."""
        guards = self._endpoints.get(address)
        if guards is None:
            if len(self._endpoints) >= MAX_ENDPOINTS:
                del self._endpoints[next(iter(self._endpoints))]
            guards = Endangered(Breaker(address, self._breaker, self._rng), RetryBudget(self._retry, now))
            self._endpoints[address] = guards
        return guards

    def state_at(self, address: str) -> tuple[State, float]:
        """An endpoint's breaker, and when an open one lets a probe through; closed for one that was never called.

        A moment and not a span: whoever adds a span to a later clock than it was taken from waits for ever.
        """
        guards = self._endpoints.get(address)
        return (State.CLOSED, 0.0) if guards is None else (guards.breaker.state, guards.breaker.retry_at)

    @contextmanager
    def attempt(self, guards: Endangered, clock: Clock) -> Iterator[Attempt]:
        """One call at its endpoint: Unavailable where the breaker allows none, and its end is told to the breaker."""
        began = clock.monotonic()
        permit = self.permit(guards, began)
        attempt = Attempt()
        try:
            yield attempt
        except TandemError as error:
            self.record(guards, permit, error, began, attempt.answered_at or clock.monotonic())
            raise
        except BaseException:
            guards.breaker.release(permit)
            raise
        self.record(guards, permit, None, began, attempt.answered_at or clock.monotonic())

    def permit(self, guards: Endangered, now: float) -> Permit:
        """Leave to call, or Unavailable with when to ask again."""
        permit = guards.breaker.permit(now)
        if isinstance(permit, Refusal):
            address = guards.breaker.endpoint
            raise Unavailable(
                f"the breaker of {address} is open: it failed too often; next try in {permit.retry_in_s:.1f} s",
                retry_after_ms=max(1, int(permit.retry_in_s * 1000)),
                breaker="open",
            )
        if permit.transition is not None:
            self._tell(permit.transition)
        return permit

    def record(self, guards: Endangered, permit: Permit, error: TandemError | None, began: float, ended: float) -> None:
        """What a call's end says about its endpoint."""
        weight = weighs(error)
        transition = guards.breaker.record(permit, weight, ended - began, ended)
        if transition is not None:
            self._tell(transition)

    def _tell(self, transition: Transition) -> None:
        self._log.warning("the breaker of %s went from %s to %s", transition.endpoint, transition.was, transition.state)

    def stats(self, now: float) -> list[BreakerStats]:
        """Every breaker as it stands."""
        return [guards.breaker.stats(now) for guards in list(self._endpoints.values())]
