"""What each identity has of the room for tasks: of each capability's line, of all that are active, and of their bytes.

It counts, and says who has its share; it refuses nobody.
"""

from __future__ import annotations

from common.resilience.share import Holdings
from pc2.resource_manager.tasks.task import Task


class Shares:
    """The tasks of each identity; told of each that comes (`sign` 1) or goes (-1)."""

    __slots__ = ("active", "bytes", "waiting")

    def __init__(self) -> None:
        self.waiting = Holdings()
        self.active = Holdings()
        self.bytes = Holdings()

    def stand(self, task: Task, sign: int) -> None:
        """A task comes to a state, or goes from it."""
        if task.state == "queued":
            self.waiting.change(sign, task.identity, task.capability)

    def weigh(self, task: Task, sign: int) -> None:
        """A task becomes active, or ends."""
        self.active.change(sign, task.identity)
        self.bytes.change(sign * task.size, task.identity)
