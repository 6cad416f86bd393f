"""Whether an ended process is started again, and how soon; never starts one, never waits.

Restarts in a row back off exponentially with jitter (Brooker, "Exponential Backoff And Jitter", 2015), a stretch of
readiness ends the row, and too many restarts within the interval are a crash loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.clock import Rng
from common.config.schema import Restart


@dataclass(frozen=True, slots=True)
class Record:
    """What a policy remembers of a process: when it restarted lately, and how many of those were in a row."""

    restarts_at: tuple[float, ...] = ()
    row: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """How a life ended, and for how long it was ready; `code` as subprocess tells it (negative: a signal, None: unknown)."""

    at: float
    code: int | None
    ready_s: float
    in_time: bool = True

    @property
    def failed(self) -> bool:
        """Anything but an exit with 0 of a process that had become ready in time, as far as that was asked."""
        return self.code != 0 or not self.in_time


@dataclass(frozen=True, slots=True)
class Retry:
    """Start it again after `delay_s`; it is restart number `number` of at most `attempts` in the interval."""

    record: Record
    delay_s: float
    number: int


@dataclass(frozen=True, slots=True)
class Leave:
    """It stays ended, as its policy wants."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It is crash-looping."""

    reason: str


def after_end(policy: Restart, record: Record, end: End, rng: Rng) -> Retry | Leave | GiveUp:
    """What follows from the end of a process that nobody asked to stop; see `Restart` for the formula."""
    if policy.when == "never" or (policy.when == "on-failure" and not end.failed):
        return Leave()
    if end.ready_s >= policy.stable_s:
        record = Record()
    recent = tuple(at for at in record.restarts_at if at > end.at - policy.interval_s)
    if len(recent) >= policy.attempts:
        return GiveUp(f"ended {len(recent) + 1} times within {policy.interval_s:g} s")
    delay_s = backoff_s(policy, record.row + 1, rng)
    return Retry(Record((*recent, end.at), record.row + 1), delay_s, len(recent) + 1)


def backoff_s(policy: Restart, number: int, rng: Rng) -> float:
    """The wait before the `number`-th restart of a row (1 is the first), within max_delay_s * (1 +- jitter)."""
    steep = policy.backoff ** min(number - 1, 64)
    return min(policy.max_delay_s, policy.delay_s * steep) * (1 + policy.jitter * (2 * rng.random() - 1))
