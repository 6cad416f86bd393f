"""How a link is, from its pings: decides when it is up and when down; sends nothing and knows no clock.

One answer brings it up. It is down after MISSES pings in a row without one, so that a single lost ping is only counted.
"""

from __future__ import annotations

from collections import deque
from typing import Final

MISSES: Final = 2
KEPT: Final = 10


class Pulse:
    """One link's pings; times are monotonic seconds. `lost` counts those without an answer since there was one."""

    def __init__(self, now: float) -> None:
        self.up = False
        self.since = now
        self.heard_at: float | None = None
        self.lost = 0
        self.why = "no answer yet"
        self._missed = 0
        self._trips: deque[float] = deque(maxlen=KEPT)

    @property
    def round_trip_s(self) -> float | None:
        """The median of the last answers' round trips; None while it is down."""
        if not self.up:
            return None
        trips, middle = sorted(self._trips), len(self._trips) // 2
        return (trips[middle] + trips[~middle]) / 2

    def heard(self, now: float, round_trip_s: float) -> bool:
        """An answer came; whether the link came up with it."""
        came_up = not self.up
        if came_up:
            self.up, self.since, self.why = True, now, ""
            self._trips.clear()
        self.heard_at, self._missed = now, 0
        self._trips.append(round_trip_s)
        return came_up

    def missed(self, now: float, why: str) -> bool:
        """A ping was not answered; whether the link went down with it."""
        self.lost += self.heard_at is not None
        self._missed += 1
        if not self.up:
            self.why = why
        elif self._missed >= MISSES:
            self.up, self.since, self.why = False, now, why
            return True
        return False
