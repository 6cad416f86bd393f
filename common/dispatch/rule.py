"""The dispatch rule: decides which agent performs a wish now, or why it has to wait.

Feasible, then ranked, then picked. An agent is feasible when it is not known to be gone, its breaker allows a call and it is
below its concurrency. Agents that are alive or promised nothing come first; one that fell suspect is asked only when no
agent of the first tier is there or all of their breakers are open, for a busy healthy agent is worth waiting for and a
silent one may be dead. An expired agent is never asked. Among the feasible, in this order: one that has not failed this wish
yet, the least loaded (in flight / concurrency), one that is proven alive, one on the wish's own host, the one unused for
longest (round robin), the first by name. Load goes before nearness: an idle card on the other host beats a line at this one.

It sends nothing, keeps nothing and counts nothing: what is in flight is the caller's fact.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from common.api.core_orchestrator import Liveness
from common.resilience.breaker import State as Breaker

LIVENESS_ORDER: Final[tuple[Liveness, ...]] = ("alive", "unpromised", "suspect", "expired")
TIERS: Final[tuple[frozenset[Liveness], ...]] = (frozenset({"alive", "unpromised"}), frozenset({"suspect"}))


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that offers the capability, as known now.

    `last_used` grows with every dispatch (0: never used); `retry_at` is when an open breaker lets a probe through, in
    seconds of the same monotonic clock as `now`.
    """

    name: str
    host: str
    liveness: Liveness
    in_flight: int
    concurrency: int
    last_used: int = 0
    breaker: Breaker = Breaker.CLOSED
    retry_at: float = 0.0

    def limit(self, now: float) -> int:
        """How many it may have in flight: its concurrency, one probe while its breaker is half open, none while open."""
        if self.breaker is Breaker.CLOSED:
            return self.concurrency
        return 0 if self.breaker is Breaker.OPEN and now < self.retry_at else 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What bears on the choice: the host nearest to the data, and the agents that failed this wish before."""

    host: str = ""
    tried: frozenset[str] = frozenset()


class Reason(StrEnum):
    """Why a wish waits."""

    BUSY = "busy"
    BARRED = "barred"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Chosen:
    """Send it to this agent now."""

    name: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now; ask again when an agent frees, returns, or its breaker lets a probe through."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Nobody:
    """No agent offers it."""


def choose(wish: Wish, candidates: Collection[Candidate], now: float) -> Chosen | Wait | Nobody:
    """The agent to send `wish` to at `now`, or the reason to wait; the same arguments give the same answer."""
    if not candidates:
        return Nobody()
    for tier in TIERS:
        group = [candidate for candidate in candidates if candidate.liveness in tier]
        free = [candidate for candidate in group if candidate.in_flight < candidate.limit(now)]
        if free:
            return Chosen(min(free, key=lambda candidate: _preference(wish, candidate)).name)
        if any(candidate.limit(now) > 0 for candidate in group):
            return Wait(Reason.BUSY, f"every agent is at its limit ({_counted(group)} in flight)")
    if all(candidate.liveness == "expired" for candidate in candidates):
        return Wait(Reason.SILENT, f"no sign of life from {_named(candidates)}")
    return Wait(Reason.BARRED, f"the breaker is open for {_named(candidates)}")


def _preference(wish: Wish, candidate: Candidate) -> tuple[bool, float, int, bool, int, str]:
    return (
        candidate.name in wish.tried,
        candidate.in_flight / candidate.concurrency,
        LIVENESS_ORDER.index(candidate.liveness),
        candidate.host != wish.host,
        candidate.last_used,
        candidate.name,
    )


def _counted(group: Collection[Candidate]) -> str:
    return f"{sum(candidate.in_flight for candidate in group)} at {len(group)}"


def _named(candidates: Collection[Candidate]) -> str:
    names = sorted(candidate.name for candidate in candidates)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
