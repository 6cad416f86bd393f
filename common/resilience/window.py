"""The last outcomes of calls to one endpoint: how many, how many failed, how many were slow.

Bounded twice: by count, so that a busy endpoint is judged by its latest calls, and by time, so that a quiet one is not
judged by last week's. It never reads a clock and never decides; the breaker does.
"""

from __future__ import annotations

from typing import Final

FINE: Final = 0
FAILED: Final = 1
SLOW: Final = 2
"""Bits of one outcome; a call may have failed slowly."""
ROOM: Final = 16
"""Outcomes that a new window has room for; more room is made as it is needed, since most endpoints are quiet."""


class Window:
    """A ring of the last `size` outcomes, none older than `span_s` once `forget` has run."""

    __slots__ = ("_at", "_bits", "_next", "_room", "_size", "_span_s", "calls", "failures", "slow")

    def __init__(self, size: int, span_s: float) -> None:
        self._size = size
        self._span_s = span_s
        self._room = min(ROOM, size)
        self._at = [0.0] * self._room
        self._bits = [FINE] * self._room
        self._next = 0
        self.calls = 0
        self.failures = 0
        self.slow = 0

    def add(self, bits: int, now: float) -> None:
        """Takes one outcome in; a full ring loses its oldest. Constant time, making room included."""
        if self.calls < self._room:
            self.calls += 1
        elif self._room < self._size:
            self._make_room()
            self.calls += 1
        here = self._next
        after = here + 1
        self._next = after if after < self._room else 0
        self._at[here] = now
        was = self._bits[here]
        if bits != was:
            self._bits[here] = bits
            self.failures += (bits & FAILED) - (was & FAILED)
            self.slow += ((bits & SLOW) - (was & SLOW)) >> 1

    def forget(self, now: float) -> None:
        """Drops what is older than the span; constant time per outcome ever added."""
        horizon = now - self._span_s
        while self.calls:
            oldest = (self._next - self.calls) % self._room
            if self._at[oldest] > horizon:
                return
            self._drop(oldest)

    def counted(self, now: float) -> tuple[int, int, int]:
        """Calls, failures and slow calls within the span; drops nothing, so that another thread than the owner's may ask."""
        horizon = now - self._span_s
        ring = ((self._next - back) % self._room for back in range(1, self.calls + 1))
        bits = [self._bits[index] for index in ring if self._at[index] > horizon]
        return len(bits), sum(bit & FAILED for bit in bits), sum(bit & SLOW for bit in bits) >> 1

    def clear(self) -> None:
        """Drops everything."""
        while self.calls:
            self._drop((self._next - self.calls) % self._room)

    def _make_room(self) -> None:
        """Twice as much, the oldest first. The lists are there before the room is told: another thread may ask meanwhile."""
        oldest, more = self._next, min(self._room, self._size - self._room)
        self._at = [*self._at[oldest:], *self._at[:oldest], *[0.0] * more]
        self._bits = [*self._bits[oldest:], *self._bits[:oldest], *[FINE] * more]
        self._next, self._room = self._room, self._room + more

    def _drop(self, oldest: int) -> None:
        was = self._bits[oldest]
        self._bits[oldest] = FINE
        self.calls -= 1
        self.failures -= was & FAILED
        self.slow -= (was & SLOW) >> 1
