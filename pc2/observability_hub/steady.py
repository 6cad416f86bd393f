"""How soon a verdict may change: for the worse at once, for the better only after it has been bad for a while.

The wait begins at HOLD_S and doubles with every turn for the worse that fell within FLAP_S, up to MOST_HOLD_S, so that a subject
that comes and goes tells of it a bounded number of times. It knows no probes, and no reasons but the ones it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from common.api.observability_hub import Verdict

HOLD_S: Final = 2.0
MOST_HOLD_S: Final = 32.0
FLAP_S: Final = 60.0
FLAPS_KEPT: Final = 8

SEVERITY: Final[dict[Verdict, int]] = {"unknown": 0, "healthy": 0, "degraded": 1, "unhealthy": 2, "unreachable": 3}


@dataclass(frozen=True, slots=True)
class Opinion:
    """A verdict with its reason, and what it is behind where it is."""

    verdict: Verdict
    reason: str = ""
    because: str = ""


@dataclass(slots=True)
class Steady:
    """The verdict that stands, since when (monotonic and wall seconds), and what may replace it."""

    opinion: Opinion = Opinion("unknown", "not asked yet")
    since: float = 0.0
    since_wall: float = 0.0
    _turns: list[float] = field(default_factory=list)

    def consider(self, new: Opinion, now: float, wall: float) -> Verdict | None:
        """Takes on `new` where that may be now: the verdict before where it changed, None where it did not.

        A new reason for the same verdict is taken on at once, and is no change.
        """
        was = self.opinion.verdict
        if new.verdict == was:
            self.opinion = new
            return None
        worse = SEVERITY[new.verdict] > SEVERITY[was]
        if not worse and now < self.free_at(now):
            return None
        if worse and SEVERITY[was] == 0:
            self._turns = [*(at for at in self._turns if now - at < FLAP_S), now][-FLAPS_KEPT:]
        self.opinion, self.since, self.since_wall = new, now, wall
        return was

    def free_at(self, now: float) -> float:
        """When it may turn to the better; `now` where it may at once."""
        if SEVERITY[self.opinion.verdict] == 0 or not self._turns:
            return now
        turns = sum(now - at < FLAP_S for at in self._turns)
        return self._turns[-1] + min(HOLD_S * (1 << max(turns - 1, 0)), MOST_HOLD_S)
