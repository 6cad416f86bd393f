"""A storm of equal reports becomes one record a second with a count: the first goes at once, its repeats are counted.

It holds what is told later and decides when; it encodes, writes and waits for nothing. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

WINDOW_S: Final = 1.0
KINDS: Final = 1_024
"""Different reports remembered at once; beyond them each is told singly."""

What = TypeVar("What")


@dataclass(frozen=True, slots=True)
class Repeats(Generic[What]):
    """A report that came `count` more times since it was last told, the last time at `last_at` (seconds since 1970)."""

    report: What
    count: int
    last_at: float


@dataclass(slots=True)
class _Run(Generic[What]):
    report: What
    tell_at: float
    count: int = 0
    last_at: float = 0.0


class Coalescer(Generic[What]):
    """The runs of equal reports that are going on."""

    def __init__(self, window_s: float = WINDOW_S, kinds: int = KINDS) -> None:
        self._window_s = window_s
        self._kinds = kinds
        self._runs: dict[Hashable, _Run[What]] = {}

    def repeats(self, key: Hashable, wall: float) -> bool:
        """Whether a report of this key is going on, in which case this one is counted and nothing else is to be done."""
        run = self._runs.get(key)
        if run is None:
            return False
        run.count += 1
        run.last_at = wall
        return True

    def begin(self, key: Hashable, report: What, now: float) -> None:
        """`report` was told; those like it are counted from now on."""
        if len(self._runs) < self._kinds:
            self._runs[key] = _Run(report, now + self._window_s)

    def due(self, now: float) -> list[Repeats[What]]:
        """What is to be told now; a run without repeats in its window is over."""
        told: list[Repeats[What]] = []
        for key, run in list(self._runs.items()):
            if now < run.tell_at:
                continue
            if not run.count:
                del self._runs[key]
                continue
            told.append(Repeats(run.report, run.count, run.last_at))
            run.count, run.tell_at = 0, now + self._window_s
        return told

    def next_at(self) -> float | None:
        """When `due` is to be asked next, None while no run goes on."""
        return min((run.tell_at for run in self._runs.values()), default=None)

    def end(self) -> list[Repeats[What]]:
        """Every run is over: what they still have to tell."""
        told = [Repeats(run.report, run.count, run.last_at) for run in self._runs.values() if run.count]
        self._runs.clear()
        return told
