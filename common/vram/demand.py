"""Demand: how often each model is asked for, and the chance that it is asked for again soon.

A use is a grant, a share or a mark of use of a (model, config). Between uses only two things are kept: when the last one
was, and a smoothed gap between them. From those comes `want`, the chance of a use within the horizon, if uses came at
random at the slower of two rates: one in a gap, or one in the time that has passed since the last. A model that has fallen
silent is therefore wanted less and less, whatever its past.

The horizon is how far ahead an eviction looks. It follows the idle ages of what is evicted, so that it is about as long as
an idle model stays loaded. Nothing here evicts or loads.
"""

from __future__ import annotations

from math import exp
from typing import Final, NamedTuple

UNKNOWN_GAP_S: Final = 3_600.0
"""The gap of what has not been used twice."""
REMEMBERED_KEYS: Final = 4_096
"""Models and configurations remembered; the one unused for longest makes room."""
SMOOTHING: Final = 0.2
"""The weight of the newest gap: gap <- 0.8 gap + 0.2 newest; the first five are averaged."""

START_HORIZON_S: Final = 600.0
HORIZON_SMOOTHING: Final = 0.05
SHORTEST_S: Final = 5.0
LONGEST_S: Final = 7_200.0


class ModelKey(NamedTuple):
    """What is loaded: a model, and what makes two loads of it differ in size."""

    model: str
    config: str = ""


def want(gap_s: float, idle_s: float, horizon_s: float) -> float:
    """The chance of a use within the horizon: 1 - exp(-horizon / max(gap, idle)); between 0 and 1."""
    mean = max(gap_s, idle_s)
    return 1.0 - exp(-horizon_s / mean) if mean > 0 else 1.0


class _Uses:
    __slots__ = ("gap_s", "gaps", "last_at")

    def __init__(self, last_at: float) -> None:
        self.last_at = last_at
        self.gap_s = UNKNOWN_GAP_S
        self.gaps = 0

    def again(self, now: float) -> None:
        newest = max(0.0, now - self.last_at)
        self.gaps += 1
        self.gap_s += max(SMOOTHING, 1 / self.gaps) * (newest - self.gap_s)
        self.last_at += newest


class Demand:
    """Last use and smoothed gap of each key, for at most `limit` keys; times are seconds of one monotonic clock."""

    def __init__(self, limit: int = REMEMBERED_KEYS) -> None:
        self._limit = limit
        self._uses: dict[ModelKey, _Uses] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def used(self, key: ModelKey, now: float) -> None:
        """Counts one use at `now`; one that came before the last one counts as at the same time."""
        uses = self._uses.pop(key, None)
        if uses is None:
            uses = _Uses(now)
            if len(self._uses) >= self._limit:
                del self._uses[next(iter(self._uses))]
        else:
            uses.again(now)
        self._uses[key] = uses

    def gap(self, key: ModelKey) -> float:
        """The smoothed seconds between uses; UNKNOWN_GAP_S for a key that was not used twice."""
        uses = self._uses.get(key)
        return UNKNOWN_GAP_S if uses is None else uses.gap_s

    def idle(self, key: ModelKey, now: float) -> float:
        """Seconds since the last use; UNKNOWN_GAP_S for a key that is not remembered."""
        uses = self._uses.get(key)
        return UNKNOWN_GAP_S if uses is None else max(0.0, now - uses.last_at)


class Horizon:
    """How far ahead an eviction looks, in seconds: H <- 0.95 H + 0.05 clamp(idle age of a victim, 5 s, 7200 s)."""

    def __init__(self, start_s: float = START_HORIZON_S) -> None:
        self.seconds = start_s

    def evicted(self, idle_s: float) -> None:
        """Takes in the idle age of one victim."""
        age = min(max(idle_s, SHORTEST_S), LONGEST_S)
        self.seconds += HORIZON_SMOOTHING * (age - self.seconds)
