"""Calls to agents that are under way, counted apart from tasks.

An agent whose task was cancelled is still busy until its call is settled. It knows no states, makes no call and ends none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from common.dispatch.load import Call, Load
from pc2.resource_manager.tasks.lines import line_of, parts_of
from pc2.resource_manager.tasks.task import Task


class Calls:
    """By agent in `load`, by capability in `running`; each with the line that its task came from."""

    __slots__ = ("_lines", "load", "running")

    def __init__(self) -> None:
        self.load = Load()
        self.running: Counter[str] = Counter()
        self._lines: dict[Call, str] = {}

    def __contains__(self, call: object) -> bool:
        return call in self.load.calls

    def __iter__(self) -> Iterator[Call]:
        return iter(self.load.calls)

    def to(self, agent_name: str) -> Collection[Call]:
        """The calls to this agent."""
        return self.load.calls_to(agent_name)

    def begin(self, task: Task) -> None:
        """The task, as it is now, is with its agent."""
        call = (task.task_id, task.runs)
        self.load.begin(call, task.agent_name)
        self.running[task.capability] += 1
        self._lines[call] = line_of(task.capability, task.model)

    def settle(self, call: Call) -> str:
        """The call is over; the line that its task came from."""
        self.load.settle(call)
        line = self._lines.pop(call)
        capability, _ = parts_of(line)
        self.running[capability] -= 1
        if not self.running[capability]:
            del self.running[capability]
        return line
