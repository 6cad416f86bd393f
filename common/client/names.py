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
    """Where an agent was when the registry was asked."""

    endpoint: Endpoint
    dress: str
    learned_at: float


class NameCache:
    """Answers by agent name; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._heard_at = float("-inf")
        self._live_since = float("inf")

    def lookup(self, name: str, now: float) -> Known | None:
        """The answer that still holds, or None: ask the registry."""
        known = self._known.get(name)
        if known is None:
            return None
        heard = now - self._heard_at < HEARD_S and known.learned_at >= self._live_since
        if heard or now - known.learned_at < UNHEARD_S:
            return known
        del self._known[name]
        return None

    def learn(self, name: str, endpoint: Endpoint, dress: str, now: float) -> Known:
        """Remember an answer."""
        self._known[name] = known = Known(endpoint, dress, now)
        return known

    def forget(self, name: str) -> None:
        """The agent changed, or did not answer there."""
        self._known.pop(name, None)

    def live(self, now: float) -> None:
        """The subscription stands from now on: whatever was learned before may have changed unseen."""
        self._known.clear()
        self._live_since = now
        self._heard_at = now

    def heard(self, now: float) -> None:
        """The registry's events are coming in."""
        self._heard_at = now

    def forget_all(self) -> None:
        """Events were missed and cannot be had again."""
        self._known.clear()
