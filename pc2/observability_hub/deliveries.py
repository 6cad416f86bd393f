"""Which batches of points were taken already: a spool hands in again what it does not know to have arrived, and it counts once.

A sender numbers its batches; a new epoch (its spool began anew) numbers them anew. Of senders beyond MAX_SENDERS the one unheard
for longest is forgotten. It keeps nothing on disk itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

MAX_SENDERS: Final = 10_000


class Delivered(NamedTuple):
    """The last batch of one sender that was taken."""

    sender: str
    epoch: int
    seq: int


class Deliveries:
    """The last batch of every sender; `known` are those of an earlier life."""

    def __init__(self, known: Iterable[Delivered] = ()) -> None:
        self._last = {one.sender: one for one in known}
        self._changed: dict[str, Delivered] = {}

    def load(self, known: Iterable[Delivered]) -> None:
        """Adds what an earlier life took, where this one has not heard of the sender yet."""
        for one in known:
            self._last.setdefault(one.sender, one)

    def repeated(self, sender: str, epoch: int, seq: int) -> bool:
        """Whether this batch was taken before; if not, it counts as taken from now on."""
        last = self._last.pop(sender, None)
        if last is not None and (epoch, seq) <= (last.epoch, last.seq):
            self._last[sender] = last
            return True
        self._last[sender] = self._changed[sender] = Delivered(sender, epoch, seq)
        if len(self._last) > MAX_SENDERS:
            del self._last[next(iter(self._last))]
        return False

    def changed(self) -> list[Delivered]:
        """What is new since the last time this was asked."""
        found, self._changed = list(self._changed.values()), {}
        return found
