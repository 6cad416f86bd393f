"""What is kept of tasks that have ended: until when, how many bytes, and which is the first to go.

It knows neither states nor limits, and forgets nothing by itself.
"""

from __future__ import annotations

from common.dispatch.agenda import Agenda


class Kept:
    """The ended tasks: `finished` ones go before `undone` ones, and of each kind the oldest first."""

    __slots__ = ("_sizes", "bytes", "finished", "results", "retention", "undone")

    def __init__(self) -> None:
        self.bytes = 0
        self.retention = Agenda()
        self.finished = Agenda()
        self.undone = Agenda()
        self.results = Agenda()
        self._sizes: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, task_id: str, *, ended_at: float, until: float, undone: bool, payload: int, result: int) -> None:
        """A task has ended; it is kept `until` (monotonic seconds), with so many bytes of result, and of `payload` beside it."""
        self._sizes[task_id] = (payload, result)
        self.bytes += payload + result
        self.retention.put(task_id, until)
        (self.undone if undone else self.finished).put(task_id, ended_at)
        if result:
            self.results.put(task_id, ended_at)

    def drop(self, task_id: str) -> None:
        """The task is no longer kept, or runs anew."""
        self.bytes -= sum(self._sizes.pop(task_id))
        for agenda in (self.retention, self.finished, self.undone, self.results):
            agenda.drop(task_id)

    def drop_result(self, task_id: str) -> None:
        """The task is kept without its result."""
        payload, result = self._sizes[task_id]
        self._sizes[task_id] = (payload, 0)
        self.bytes -= result
        self.results.drop(task_id)

    def oldest(self) -> str | None:
        """Which goes first when there are too many."""
        first = self.finished.first() or self.undone.first()
        return first[1] if first is not None else None

    def oldest_result(self) -> str | None:
        """Which result goes first when they take too much room."""
        first = self.results.first()
        return first[1] if first is not None else None
