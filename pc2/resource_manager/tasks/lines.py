"""The lines of tasks that wait, in order of rank, and those whose time to line up has not come.

There is a line for each capability, and one for each model that tasks of a capability need. A line stalls when its first has to
wait, for all behind it want the same agents and the same model; it is awake until then, and again when something changed. Of
all that are awake the one with the lowest rank is found at once, however many there are. It knows no states and decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from common.dispatch.agenda import Agenda

BETWEEN: Final = "\n"
"""Stands between a capability and a model in the name of a line; neither has it."""


def line_of(capability: str, model: str) -> str:
    """The line's name: the capability where its tasks need no model."""
    return f"{capability}{BETWEEN}{model}" if model else capability


def parts_of(line: str) -> tuple[str, str]:
    """The line's capability and model; an empty model where its tasks need none."""
    capability, _, model = line.partition(BETWEEN)
    return capability, model


class Lines:
    """Who waits, for what and why."""

    __slots__ = ("_later", "_with_model", "awake", "delayed", "late", "ready", "stalls")

    def __init__(self) -> None:
        self.ready: dict[str, Agenda] = {}
        self.stalls: dict[str, str] = {}
        self.awake = Agenda()
        self.delayed = Agenda()
        self.late: Counter[str] = Counter()
        self._later: dict[str, tuple[str, float]] = {}
        self._with_model: dict[str, dict[str, None]] = {}

    def join(self, task_id: str, line: str, rank: float) -> None:
        """The task takes its place in line."""
        ready = self.ready.get(line)
        if ready is None:
            ready = self._open(line)
        ready.put(task_id, rank)
        if line not in self.stalls and self._first(line)[1] == task_id:
            self._rouse(line)

    def delay(self, task_id: str, line: str, rank: float, until: float) -> None:
        """The task takes its place in line at `until` (monotonic seconds)."""
        self.delayed.put(task_id, until)
        self.late[line] += 1
        self._later[task_id] = (line, rank)

    def release(self, now: float) -> None:
        """Those whose time has come take their places."""
        while (task_id := self.delayed.due(now)) is not None:
            self.join(task_id, *self._not_later(task_id))

    def leave(self, task_id: str, line: str) -> None:
        """The task no longer waits."""
        if task_id in self.delayed:
            self._not_later(task_id)
            return
        ready = self.ready[line]
        ready.drop(task_id)
        if not ready:
            self._close(line)
        elif line in self.awake:
            self._rouse(line)

    def stall(self, line: str, reason: str) -> None:
        """The first of this line has to wait."""
        self.stalls[line] = reason
        self.awake.drop(line)

    def wake(self, capabilities: Iterable[str]) -> None:
        """Something changed for these: an agent came or became free, or its breaker may let a call through."""
        for capability in capabilities:
            self._wake(capability)
            for line in self._with_model.get(capability, ()):
                self._wake(line)

    def wake_model(self, model: str) -> None:
        """Something changed for those who need the model."""
        for line in self.stalls.keys() & {line_of(capability, model) for capability in self._with_model}:
            self._wake(line)

    def stalled(self) -> set[str]:
        """The capabilities of which a line has to wait."""
        return {parts_of(line)[0] for line in self.stalls}

    def next(self) -> str | None:
        """Who is first of all in the lines that are awake; None where there is none."""
        head = self.awake.first()
        return self._first(head[1])[1] if head is not None else None

    def _open(self, line: str) -> Agenda:
        ready = self.ready[line] = Agenda()
        capability, model = parts_of(line)
        if model:
            self._with_model.setdefault(capability, {})[line] = None
        return ready

    def _close(self, line: str) -> None:
        del self.ready[line]
        self.stalls.pop(line, None)
        self.awake.drop(line)
        capability, model = parts_of(line)
        if model:
            lines = self._with_model[capability]
            del lines[line]
            if not lines:
                del self._with_model[capability]

    def _not_later(self, task_id: str) -> tuple[str, float]:
        self.delayed.drop(task_id)
        line, rank = self._later.pop(task_id)
        self.late[line] -= 1
        if not self.late[line]:
            del self.late[line]
        return line, rank

    def _wake(self, line: str) -> None:
        if self.stalls.pop(line, None) is not None:
            self._rouse(line)

    def _rouse(self, line: str) -> None:
        self.awake.put(line, self._first(line)[0])

    def _first(self, line: str) -> tuple[float, str]:
        first = self.ready[line].first()
        assert first is not None
        return first
