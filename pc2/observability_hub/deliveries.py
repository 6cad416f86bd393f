"""Which batches of points were taken already: a spool hands in again what it does not know to have arrived, and it counts once.

A sender numbers its batches; another epoch (its spool began anew) numbers them anew, and is a sender of its own: which of two
came first cannot be told by their numbers, for the sender's clock may have been set back. Of senders beyond MAX_SENDERS the one
unheard for longest is forgotten. It keeps nothing on disk itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

MAX_SENDERS: Final = 10_000


class Delivered(NamedTuple):
    """The last batch of one sender's epoch that was taken."""

    sender: str
    epoch: int
    seq: int

    @property
    def life(self) -> tuple[str, int]:
        """Whose it is."""
        return self.sender, self.epoch


class Deliveries:
    """The last batch of every sender."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], int] = {}
        self._changed: dict[tuple[str, int], Delivered] = {}

    def load(self, known: Iterable[Delivered]) -> None:
        """Adds what an earlier life took, where this one has not heard of the sender yet."""
        for one in known:
            self._last.setdefault(one.life, one.seq)

    def repeated(self, sender: str, epoch: int, seq: int) -> bool:
        """Whether this batch was taken before; if not, it counts as taken from now on."""
        taken = Delivered(sender, epoch, seq)
        last = self._last.pop(taken.life, None)
        if last is not None and seq <= last:
            self._last[taken.life] = last
            return True
        self._last[taken.life] = seq
        self._changed[taken.life] = taken
        if len(self._last) > MAX_SENDERS:
            del self._last[next(iter(self._last))]
        return False

    def changed(self) -> list[Delivered]:
        """What is new since the last time this was asked."""
        found, self._changed = list(self._changed.values()), {}
        return found
