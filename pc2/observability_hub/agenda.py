"""Whose turn is when: those who are due at about the same time take one turn together, so that few wake-ups serve many.

A turn has room for CROWD; beyond that there is another one, so that hundreds do not march in step. It keeps no time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import Final

CROWD: Final = 16


class Agenda:
    """The turns to come, by their time in monotonic seconds; everybody has at most one."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._turns: dict[float, list[str]] = {}
        self._times: list[float] = []

    def __contains__(self, key: object) -> bool:
        return key in self._at

    @property
    def next(self) -> float | None:
        """When the next turn is."""
        return self._times[0] if self._times else None

    def plan(self, key: str, at: float, between: tuple[float, float]) -> None:
        """The turn of `key`, in place of the one that it has: the last `between` these times that has room, else one at `at`."""
        self.drop(key)
        self._enter(key, self._shared(*between, at))

    def hasten(self, key: str, by: float) -> None:
        """The turn of `key` is at `by`, unless it has an earlier one."""
        if self._at.get(key, by + 1.0) > by:
            self.drop(key)
            self._enter(key, by)

    def take(self, until: float) -> list[str]:
        """Takes out whoever has a turn until then, in order."""
        count = bisect_right(self._times, until)
        found = [key for at in self._times[:count] for key in self._turns.pop(at)]
        del self._times[:count]
        for key in found:
            del self._at[key]
        return found

    def drop(self, key: str) -> None:
        """It has no turn any more."""
        at = self._at.pop(key, None)
        if at is None:
            return
        turn = self._turns[at]
        turn.remove(key)
        if not turn:
            del self._turns[at]
            del self._times[bisect_left(self._times, at)]

    def _enter(self, key: str, at: float) -> None:
        if at not in self._turns:
            self._turns[at] = []
            insort(self._times, at)
        self._turns[at].append(key)
        self._at[key] = at

    def _shared(self, first: float, last: float, alone: float) -> float:
        index = bisect_right(self._times, last)
        while index and self._times[index - 1] >= first:
            index -= 1
            if len(self._turns[self._times[index]]) < CROWD:
                return self._times[index]
        return alone
