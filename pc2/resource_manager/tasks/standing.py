"""Where tasks stand: how many are in each state, and those of each state and capability in the order in which they came there.

It knows no moves and decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from heapq import merge
from itertools import islice

from common.api.tasks import TaskState

Line = dict[str, int]
"""Tasks by id, each with the number of the move that brought it there; the last one came last."""


class Standing:
    """Every task in the one place where it is."""

    __slots__ = ("_lines", "_moves", "counts")

    def __init__(self) -> None:
        self.counts: Counter[TaskState] = Counter()
        self._lines: dict[tuple[TaskState, str], Line] = {}
        self._moves = 0

    def enter(self, task_id: str, state: TaskState, capability: str) -> None:
        """The task has come to this state."""
        self._moves += 1
        self.counts[state] += 1
        place = (state, capability)
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = {}
        line[task_id] = self._moves

    def leave(self, task_id: str, state: TaskState, capability: str) -> None:
        """The task is in this state no more."""
        place = (state, capability)
        self.counts[state] -= 1
        line = self._lines[place]
        del line[task_id]
        if not line:
            del self._lines[place]

    @property
    def active(self) -> int:
        """How many wait or run."""
        return self.counts["queued"] + self.counts["running"]

    def number(self, state: TaskState, capability: str) -> int:
        """How many tasks of the capability are in this state."""
        return len(self._lines.get((state, capability), ()))

    def latest(self, state: TaskState | None, capability: str, limit: int) -> list[str]:
        """The tasks of this state and capability (None, empty: of any), who came last first."""
        lines = [
            _backwards(line)
            for (line_state, line_capability), line in self._lines.items()
            if state in (None, line_state) and capability in ("", line_capability)
        ]
        return [task_id for _, task_id in islice(merge(*lines, reverse=True), limit)]


def _backwards(line: Line) -> Iterator[tuple[int, str]]:
    return ((move, task_id) for task_id, move in reversed(line.items()))
