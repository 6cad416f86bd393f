"""The hub's doubt in itself: a hub that is slow suspects nobody.

Three signs: its loop runs late; a probe that was to be given up is noticed late; or nobody answers any more, of at least SILENT
at once, while none of them refuses (a refusal is the kernel's own word). While it doubts, silences are no evidence. What a
supervisor tells is no matter of eyes and counts all the same.

Lateness counts for as long as it lasts. Silence alone does not: a hub that is in time and hears nobody for LONGEST_S is not the
one that is slow, and they that hang have to be told of.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

LATE_S: Final = 0.25
BURST_S: Final = 1.5
LEAST_S: Final = 0.5
"""A burst counts when nobody was heard for this long: whoever is missed, its supervisor is asked at once."""
SILENT: Final = 4
STAYS_S: Final = 2.0
"""How long doubt outlives its last sign."""
LONGEST_S: Final = 10.0
"""How long bursts of silence are a reason for doubt."""
CALM_S: Final = 60.0
"""Bursts that follow one another within this time are one and the same silence."""


@dataclass(slots=True)
class Doubt:
    """Whether the hub doubts itself, and why; `now` is monotonic seconds."""

    reason: str = ""
    times: int = 0
    _until: float = float("-inf")
    _burst_began: float = float("-inf")
    _burst_at: float = float("-inf")
    _silent: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=4_096))

    def late(self, by_s: float, now: float) -> None:
        """Something that was due happened `by_s` late."""
        if by_s >= LATE_S:
            self._begin(f"the hub itself was {by_s:.1f} s late", now)

    def heard(self) -> None:
        """Somebody on this machine answered, or its kernel did: the hub has ears."""
        self._silent.clear()

    def silence(self, subject: str, now: float) -> None:
        """A subject on this machine did not answer in time."""
        self._silent.append((now, subject))
        while self._silent[0][0] < now - BURST_S:
            self._silent.popleft()
        silent = len({name for _, name in self._silent})
        if silent >= SILENT and now - self._silent[0][0] >= LEAST_S:
            self._burst(f"nobody answers the hub, {silent} at once", now)

    def now(self, now: float) -> str:
        """Why the hub doubts itself at `now`; empty when it does not."""
        return self.reason if now < self._until else ""

    def _burst(self, reason: str, now: float) -> None:
        if now - self._burst_at > CALM_S:
            self._burst_began = now
        self._burst_at = now
        if now - self._burst_began < LONGEST_S:
            self._begin(reason, now)

    def _begin(self, reason: str, now: float) -> None:
        if now >= self._until:
            self.times += 1
        self.reason, self._until = reason, now + STAYS_S
