"""The clock and the dice as protocols: rules take a reading or a throw as an argument and never fetch one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one to measure with, one to tell people the time."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point of this host; never compared across hosts, never stored."""
        ...

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC; may step, so nothing waits by it."""
        ...


class Rng(Protocol):
    """A source of chance, seeded in tests."""

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """An integer of k random bits."""
        ...


def timestamp(wall: float) -> str:
    """Seconds since 1970 as RFC 3339 UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
