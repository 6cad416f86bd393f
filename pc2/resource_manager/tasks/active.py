"""Tasks that wait or run: how many bytes they hold and whose, since when they are in their lines, and when they have to be done.

It knows no moves and no limits, and ends nothing by itself.
"""

from __future__ import annotations

from math import inf

from common.dispatch.agenda import Agenda
from common.resilience.share import Shares
from pc2.resource_manager.tasks.lines import line_of
from pc2.resource_manager.tasks.task import Task


class Active:
    """`arrivals` are by line, in wall time; `deadlines` are by the monotonic clock; `shares` are what each identity has of it."""

    __slots__ = ("arrivals", "bytes", "deadlines", "shares")

    def __init__(self) -> None:
        self.bytes = 0
        self.shares = Shares()
        self.deadlines = Agenda()
        self.arrivals: dict[str, Agenda] = {}

    def add(self, task: Task, deadline: float) -> None:
        """The task waits from now on, or runs; inf: it may take for ever."""
        self.bytes += task.size
        self.shares.weigh(1, task.identity, task.size)
        if deadline < inf:
            self.deadlines.put(task.task_id, deadline)
        line = line_of(task.capability, task.model)
        arrivals = self.arrivals.get(line)
        if arrivals is None:
            arrivals = self.arrivals[line] = Agenda()
        arrivals.put(task.task_id, task.queued_at)

    def drop(self, task: Task) -> None:
        """The task has ended."""
        self.bytes -= task.size
        self.shares.weigh(-1, task.identity, task.size)
        self.deadlines.drop(task.task_id)
        line = line_of(task.capability, task.model)
        arrivals = self.arrivals[line]
        arrivals.drop(task.task_id)
        if not arrivals:
            del self.arrivals[line]

    def oldest_s(self, wall: float, line: str | None = None) -> float:
        """The age of the oldest of them, in the line or in all (None), in seconds; 0 where there is none."""
        agendas = self.arrivals.values() if line is None else filter(None, [self.arrivals.get(line)])
        oldest = min((first[0] for agenda in agendas if (first := agenda.first()) is not None), default=wall)
        return max(0.0, wall - oldest)
