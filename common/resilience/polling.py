"""When to look again for what is awaited and cannot tell of itself: at once, then at pauses in proportion to the time waited.

Whoever looks so finds it late by a given part of the wait at most, and a long wait costs few looks. It looks at nothing itself.
"""

from __future__ import annotations

from typing import NamedTuple


class Polling(NamedTuple):
    """Pauses of `part` of the time waited by then, from `soonest_s` to `slowest_s`; with 1.0 each look doubles the time."""

    soonest_s: float
    slowest_s: float
    part: float = 1.0

    def pause_s(self, waited_s: float) -> float:
        """Seconds until the next look, after so many seconds of waiting."""
        return min(max(waited_s * self.part, self.soonest_s), self.slowest_s)
