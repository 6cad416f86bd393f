"""When a subject is probed next, and how long its answer is waited for.

Quick while something is new or suspicious, slower the longer all is well, scattered so that subjects do not march in step. How
long to wait follows from how long its answers take (RFC 6298: a smoothed time and its spread), so that a slow agent is not taken
for a dead one, and a stopped one is seen soon. It keeps no time and asks nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.clock import Rng

QUICK_S: Final = 0.1
"""Between two probes of one that did not answer."""
FRESH_S: Final = 0.25
SLOW_S: Final = 0.95
"""Between two probes of one that has been well for long. With PATIENCE_S twice and QUICK_S it bounds how late a stop is seen."""
LONG_DOWN_S: Final = 1.0
GROWTH: Final = 1.4
JITTER: Final = 0.05
EARLY: Final = 0.25
"""The share of its interval by which one is probed sooner, where others are probed then: one wake-up serves them all."""

LEAST_PATIENCE_S: Final = 0.3
FIRST_PATIENCE_S: Final = 1.0
MOST_PATIENCE_S: Final = 2.0
DOWN_AFTER: Final = 8
"""Misses in a row after which there is no hurry any more."""


@dataclass(slots=True)
class Pace:
    """One subject's pace."""

    smoothed_s: float = 0.0
    spread_s: float = 0.0
    interval_s: float = FRESH_S
    misses: int = 0
    known: bool = False

    @property
    def patience_s(self) -> float:
        """How long an answer is waited for: the smoothed time and four times its spread, bounded."""
        if not self.known:
            return FIRST_PATIENCE_S
        return min(max(self.smoothed_s + 4 * self.spread_s, LEAST_PATIENCE_S), MOST_PATIENCE_S)

    def answered(self, latency_s: float) -> None:
        """An answer came: the pace slows, but for one that was missed before and has to show itself anew."""
        if not self.known:
            self.smoothed_s, self.spread_s, self.known = latency_s, latency_s / 2, True
        else:
            self.spread_s += (abs(latency_s - self.smoothed_s) - self.spread_s) / 4
            self.smoothed_s += (latency_s - self.smoothed_s) / 8
        self.interval_s = FRESH_S if self.misses else min(self.interval_s * GROWTH, SLOW_S)
        self.misses = 0

    def missed(self) -> None:
        """No answer came: look again at once, unless that has been so for long."""
        self.misses += 1
        self.interval_s = QUICK_S if self.misses < DOWN_AFTER else LONG_DOWN_S

    def hurry(self) -> None:
        """Something about it changed: begin anew."""
        self.interval_s, self.misses = FRESH_S, 0

    @property
    def soonest_s(self) -> float:
        """Seconds until it may be probed together with others."""
        return self.interval_s * (1 - EARLY)

    def pause_s(self, rng: Rng) -> float:
        """Seconds until the next probe, scattered downwards only, so that SLOW_S is a bound."""
        return self.interval_s * (1 - JITTER * rng.random())
