"""How an agent is looked up: at the registry, and where that does not answer at a supervisor on this host, which keeps a copy.

A look-up is a generator of questions that a face asks: it yields an Ask, and is sent the answer or has its TandemError thrown in.
While the registry is away the copy is asked first, so that only one look-up in a while finds that out anew. It never waits.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from common.api.core_orchestrator import SERVICE, Endpoint
from common.clock import Clock
from common.errors import DeadlineExceeded, Interrupted, TandemError, Unavailable

PATIENCE_S: Final = 5.0
"""All of a look-up together."""
REGISTRY_S: Final = 1.0
"""The registry's time where a copy is at hand."""
COPY_S: Final = 0.4
AWAY_S: Final = 2.0
"""A registry that did not answer is not waited for again so soon."""

_AWAY: Final = (Unavailable, Interrupted, DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the service of that name where the agent is, for so long."""

    target: str
    timeout_s: float


Locating = Generator[Ask, Endpoint, Endpoint]


class Sources:
    """Whom one client asks; `copies` are the supervisors on this host's loopback."""

    def __init__(self, copies: Sequence[str], clock: Clock) -> None:
        self._copies = copies
        self._now = clock.monotonic
        self._away_until = float("-inf")

    def locate(self, deadline: float) -> Locating:
        """Look an agent up until `deadline` (monotonic), at most PATIENCE_S; raises the error of the last who was asked."""
        deadline = min(deadline, self._now() + PATIENCE_S)
        if self._copies and self._now() >= self._away_until:
            try:
                return (yield Ask(SERVICE, min(REGISTRY_S, deadline - self._now())))
            except _AWAY:
                self._away_until = self._now() + AWAY_S
        for copy in self._copies:
            try:
                return (yield Ask(copy, min(COPY_S, deadline - self._now())))
            except TandemError:
                continue  # it is away, has no copy, or does not know the agent yet: the registry has the last word
        return (yield Ask(SERVICE, deadline - self._now()))
