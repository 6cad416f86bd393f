"""Whose call is next: each identity with work waiting gets one turn before any gets a second.

Round robin over one queue per identity (J. Nagle, On packet switches with infinite storage, RFC 970): the backlog of one that
floods delays itself and nobody else. It never runs an item and never looks into it.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items waiting, at most `bound` of one identity; an item is anything but None."""

    __slots__ = ("_bound", "_lanes", "_turns", "waiting")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._lanes: dict[str, deque[Item]] = {}
        self._turns: deque[str] = deque()
        self.waiting = 0

    def push(self, identity: str, item: Item) -> bool:
        """Puts an item behind the identity's others; False when it has `bound` waiting already. Constant time."""
        lane = self._lanes.get(identity)
        if lane is None:
            self._lanes[identity] = deque((item,))
            self._turns.append(identity)
        elif len(lane) >= self._bound:
            return False
        else:
            lane.append(item)
        self.waiting += 1
        return True

    def pop(self) -> Item | None:
        """The next item, of the identity whose turn is due; None when nothing waits. Constant time."""
        if not self._turns:
            return None
        identity = self._turns.popleft()
        lane = self._lanes[identity]
        item = lane.popleft()
        if lane:
            self._turns.append(identity)
        else:
            del self._lanes[identity]
        self.waiting -= 1
        return item

    def __len__(self) -> int:
        return self.waiting
