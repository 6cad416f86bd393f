"""What a client remembers of where agents are: answers of the registry, until an event says that they changed.

While the registry's events are heard an answer holds; while they are not, it holds for UNHEARD_S. Never asks by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.transport.sockets import Endpoint

UNHEARD_S: Final = 1.0
HEARD_S: Final = 3.0
"""Beats come once a second; after three without one the events count as not heard."""


@dataclass(frozen=True, slots=True)
class Known:
    """Where an agent was when the registry was asked; `sure` when no change was heard of between the question and the answer."""

    endpoint: Endpoint
    dress: str
    learned_at: float
    sure: bool


class NameCache:
    """Answers by agent name; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._heard_at = float("-inf")
        self.changes = 0
        """Grows with all that may make an answer old; who asks the registry notes it before."""

    def lookup(self, name: str, now: float) -> Known | None:
        """The answer that still holds, or None: ask the registry."""
        known = self._known.get(name)
        if known is None:
            return None
        heard = known.sure and now - self._heard_at < HEARD_S
        if heard or now - known.learned_at < UNHEARD_S:
            return known
        del self._known[name]
        return None

    def learn(self, name: str, endpoint: Endpoint, dress: str, changes: int, now: float) -> Known:
        """Remember an answer to a question that was asked when `changes` was the number of changes.

        Events and answers come by different ways: one that says that the agent moved may overtake the answer from before.
        """
        self._known[name] = known = Known(endpoint, dress, now, sure=changes == self.changes)
        return known

    def forget(self, name: str) -> None:
        """The agent changed, or did not answer there."""
        self._known.pop(name, None)
        self.changes += 1

    def live(self, now: float) -> None:
        """The subscription stands from now on: whatever was learned before may have changed unseen."""
        self.forget_all()
        self._heard_at = now

    def heard(self, now: float) -> None:
        """The registry's events are coming in."""
        self._heard_at = now

    def forget_all(self) -> None:
        """Events were missed and cannot be had again."""
        self._known.clear()
        self.changes += 1
