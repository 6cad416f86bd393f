"""What each identity has of the room for requests: of each capability's queue, of all that are under way, and of their bytes.

It counts, and says who has its share; it refuses nobody.
"""

from __future__ import annotations

from common.resilience.share import Holdings
from main_pc.core_orchestrator.request_facts import RequestQueued


class Shares:
    """The requests of each identity; told of each that comes (`sign` 1) or goes (-1)."""

    __slots__ = ("active", "bytes", "waiting")

    def __init__(self) -> None:
        self.waiting = Holdings()
        self.active = Holdings()
        self.bytes = Holdings()

    def stand(self, asked: RequestQueued, sign: int) -> None:
        """A request comes to its queue, or leaves it."""
        self.waiting.change(sign, asked.identity, asked.capability)

    def weigh(self, asked: RequestQueued, sign: int) -> None:
        """A request is taken on, or ends."""
        self.active.change(sign, asked.identity)
        self.bytes.change(sign * asked.size(), asked.identity)
