"""What a scenario found: figures with their spread over the rounds, and how its targets fared."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity: its median over the rounds, its least and its most."""

    name: str
    unit: str
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, name: str, unit: str, rounds: Sequence[float]) -> Figure:
        """The figure of what the rounds gave."""
        return cls(name, unit, statistics.median(rounds), min(rounds), max(rounds))


@dataclass(frozen=True, slots=True)
class Target:
    """A promise: what, and on which side of which bound."""

    promise: str
    side: Literal["at most", "at least"]
    bound: float
    unit: str

    def judge(self, measured: float) -> Verdict:
        """Whether `measured` keeps the promise."""
        return Verdict(self, measured, measured <= self.bound if self.side == "at most" else measured >= self.bound)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise and what became of it."""

    target: Target
    measured: float
    met: bool


@dataclass(frozen=True, slots=True)
class Result:
    """All that one scenario has to say; `notes` tell what a reader must know to judge the figures."""

    title: str
    figures: list[Figure]
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
