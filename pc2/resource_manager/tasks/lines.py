"""The lines of tasks that wait: one for each capability, in order of rank, and those whose time to line up has not come.

A line stalls when its first has to wait, for all behind it want the same agents; it is awake until then, and again when
something changed. Of all that are awake the one with the lowest rank is found at once, however many there are. It knows no
states and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.dispatch.agenda import Agenda


class Lines:
    """Who waits, for what and why."""

    __slots__ = ("_later", "awake", "delayed", "ready", "stalls")

    def __init__(self) -> None:
        self.ready: dict[str, Agenda] = {}
        self.stalls: dict[str, str] = {}
        self.awake = Agenda()
        self.delayed = Agenda()
        self._later: dict[str, tuple[str, float]] = {}

    def join(self, task_id: str, capability: str, rank: float) -> None:
        """The task takes its place in line."""
        ready = self.ready.get(capability)
        if ready is None:
            ready = self.ready[capability] = Agenda()
        ready.put(task_id, rank)
        if capability not in self.stalls and self._first(capability)[1] == task_id:
            self._rouse(capability)

    def delay(self, task_id: str, capability: str, rank: float, until: float) -> None:
        """The task takes its place in line at `until` (monotonic seconds)."""
        self.delayed.put(task_id, until)
        self._later[task_id] = (capability, rank)

    def release(self, now: float) -> None:
        """Those whose time has come take their places."""
        while (task_id := self.delayed.due(now)) is not None:
            self.delayed.drop(task_id)
            self.join(task_id, *self._later.pop(task_id))

    def leave(self, task_id: str, capability: str) -> None:
        """The task no longer waits."""
        if task_id in self.delayed:
            self.delayed.drop(task_id)
            del self._later[task_id]
            return
        ready = self.ready[capability]
        ready.drop(task_id)
        if not ready:
            del self.ready[capability]
            self.stalls.pop(capability, None)
            self.awake.drop(capability)
        elif capability in self.awake:
            self._rouse(capability)

    def stall(self, capability: str, reason: str) -> None:
        """The first of this line has to wait."""
        self.stalls[capability] = reason
        self.awake.drop(capability)

    def wake(self, capabilities: Iterable[str]) -> None:
        """Something changed for these: an agent came or became free, or its breaker may let a call through."""
        for capability in capabilities:
            if self.stalls.pop(capability, None) is not None:
                self._rouse(capability)

    def next(self) -> str | None:
        """Who is first of all in the lines that are awake; None where there is none."""
        head = self.awake.first()
        return self._first(head[1])[1] if head is not None else None

    def _rouse(self, capability: str) -> None:
        self.awake.put(capability, self._first(capability)[0])

    def _first(self, capability: str) -> tuple[float, str]:
        first = self.ready[capability].first()
        assert first is not None
        return first
