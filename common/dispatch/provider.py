"""Providers: what a dispatcher knows of an agent that offers a capability, and how much is sent to it at a time.

It chooses no agent: `rule` does, among the candidates made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.api.core_orchestrator import Agent, Dress, Liveness, RegisterAgent
from common.dispatch.rule import Candidate
from common.resilience.breaker import State as Breaker

MAX_CONCURRENCY: Final = 1_000

DEFAULT_CONCURRENCY: Final[dict[Dress, int]] = {"plain": 1, "native": 4}
"""Calls made to one agent at a time where its metadata has no `concurrency`.

A plain agent answers in turn: a second call would only wait inside it, where nobody can see, withdraw or redirect it. A
native one answers out of order; a few at once hide the way there, and few are lost if it dies.
"""

BreakerOf = Callable[[str], tuple[Breaker, float]]
"""An agent's breaker by the agent's name: its state, and when an open one lets a probe through (monotonic seconds)."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An agent that offers a capability, as the dispatcher needs to know it."""

    name: str
    host: str
    liveness: Liveness
    verb: str
    idempotent: bool
    concurrency: int
    breaker: Breaker = Breaker.CLOSED
    retry_at: float = 0.0

    def candidate(self, in_flight: int, last_used: int) -> Candidate:
        """The rule's view of it, with what is the dispatcher's own to know: calls in flight to it, and its last turn."""
        return Candidate(
            name=self.name,
            host=self.host,
            liveness=self.liveness,
            in_flight=in_flight,
            concurrency=self.concurrency,
            last_used=last_used,
            breaker=self.breaker,
            retry_at=self.retry_at,
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """Who provides a capability; where nobody does, `expected` says that an agent which is configured or restarting will."""

    providers: tuple[Provider, ...] = ()
    expected: bool = False


Offers = Callable[[str], Offer]
"""Looks a capability up."""


def concurrency(dress: Dress, metadata: Mapping[str, Any]) -> int:
    """How many calls an agent takes at a time: its metadata's `concurrency` (1 to MAX_CONCURRENCY), else by its dress."""
    said = metadata.get("concurrency")
    if isinstance(said, int) and not isinstance(said, bool) and 1 <= said <= MAX_CONCURRENCY:
        return said
    return DEFAULT_CONCURRENCY[dress]


def provider_of(
    capability: str, agent: RegisterAgent | Agent, liveness: Liveness, breaker: Breaker, retry_at: float
) -> Provider:
    """The provider of `capability` that `agent`, which offers it, is."""
    return Provider(
        name=agent.agent_name,
        host=agent.location,
        liveness=liveness,
        verb=agent.verbs.get(capability, capability),
        idempotent=capability in agent.idempotent,
        concurrency=concurrency(agent.dress, agent.metadata),
        breaker=breaker,
        retry_at=retry_at,
    )
