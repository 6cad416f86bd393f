"""The table of calls under way on one channel: who waits for which id, until when.

Never sends, never waits: it takes replies in and hands back whose they are; `overdue` is swept now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

W = TypeVar("W")


class CallTable(Generic[W]):
    """Waiters by call id, each with a deadline on the caller's monotonic clock (None: waits as long as it takes)."""

    __slots__ = ("_last", "_waiting")

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[int, tuple[W, float | None]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, waiter: W, deadline: float | None) -> int:
        """A fresh id, at which `waiter` waits."""
        self._last += 1
        self._waiting[self._last] = (waiter, deadline)
        return self._last

    def waiter(self, call_id: int) -> W | None:
        """Who waits at `call_id`, left waiting; None when nobody does (a late or foreign reply)."""
        entry = self._waiting.get(call_id)
        return None if entry is None else entry[0]

    def close(self, call_id: int) -> W | None:
        """Who waited at `call_id`; None when nobody does (any more)."""
        entry = self._waiting.pop(call_id, None)
        return None if entry is None else entry[0]

    def overdue(self, now: float) -> list[tuple[int, W]]:
        """Take out everyone whose deadline has passed."""
        late = [
            (call_id, waiter)
            for call_id, (waiter, deadline) in self._waiting.items()
            if deadline is not None and deadline <= now
        ]
        for call_id, _ in late:
            del self._waiting[call_id]
        return late

    def first_deadline(self) -> float | None:
        """The earliest deadline; None where nobody waits until one."""
        return min((deadline for _, deadline in self._waiting.values() if deadline is not None), default=None)

    def take_all(self) -> Iterator[tuple[int, W]]:
        """Take out everyone, oldest first: the channel is gone."""
        while self._waiting:
            call_id = next(iter(self._waiting))
            yield call_id, self._waiting.pop(call_id)[0]
