"""An agenda: names in order of a number, such as who is next in a line or what is due when.

Adding, taking out and looking at the first cost O(log n), however many there are. It is a heap whose entries are struck out
where they lie and skipped when they come up; once more than half of them are struck out it is made anew.

It reads no clock: what the numbers mean is its keeper's to say.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

SPARE: Final = 64
"""Struck-out entries that are not worth making the heap anew."""


class Agenda:
    """Names with a number each, the lowest first; of equal numbers the one added first."""

    __slots__ = ("_entries", "_heap", "_numbers")

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def put(self, name: str, number: float) -> None:
        """Adds a name, or gives it another number and a place behind its equals."""
        entry = self._entries[name] = (number, next(self._numbers))
        heappush(self._heap, (*entry, name))
        if len(self._heap) > 2 * len(self._entries) + SPARE:
            self._heap = [(*known, each) for each, known in self._entries.items()]
            heapify(self._heap)

    def drop(self, name: str) -> None:
        """Takes a name out; doing so twice is no error."""
        self._entries.pop(name, None)

    def first(self) -> tuple[float, str] | None:
        """The lowest number and its name, or None where nothing is left."""
        while self._heap:
            number, order, name = self._heap[0]
            if self._entries.get(name) == (number, order):
                return number, name
            heappop(self._heap)
        return None

    def due(self, until: float) -> str | None:
        """The first name if its number is at most `until`; it stays where it is."""
        first = self.first()
        return first[1] if first is not None and first[0] <= until else None
