"""Whether a failed call is tried again, when, and how much trying again an endpoint can bear.

One call has one time budget: an absolute deadline here, the milliseconds that remain of it in the header, so that every
hop gives up together. One endpoint has one retry budget, so that an outage is not multiplied by everyone's retries.
Nothing here sleeps or sends.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from common.clock import Rng
from common.errors import Code, TandemError
from common.ids import MAX_WIRE_INT


class RetrySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The knobs of retries. The n-th retry waits `u * min(cap_s, base_s * 2**(n - 1))`, u uniform in [0, 1)."""

    attempts: Annotated[int, Meta(ge=1, le=100, description="attempts in all, the first included")] = 4
    base_s: Annotated[float, Meta(gt=0, le=60, description="seconds")] = 0.05
    cap_s: Annotated[float, Meta(gt=0, le=600, description="seconds")] = 2.0
    ratio: Annotated[float, Meta(ge=0, le=1, description="retries earned by one call")] = 0.1
    floor_per_s: Annotated[float, Meta(ge=0, le=1000, description="retries per second earned without calls")] = 1.0
    burst: Annotated[float, Meta(ge=1, le=10_000, description="retries that may be saved up")] = 20.0


DEFAULT: Final = RetrySettings()


def next_attempt(
    error: TandemError,
    attempt: int,
    now: float,
    deadline: float,
    idempotent: bool,
    rng: Rng,
    settings: RetrySettings = DEFAULT,
) -> float | None:
    """Seconds to wait before trying again, or None: give the error to the caller.

    `attempt` counts from 1, the attempt that just failed; `now` and `deadline` are monotonic seconds. Exponential back-off
    with full jitter (M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015); on top of `retry_after_ms`
    where the endpoint gave it, so that those it sent away do not all come back at once. Never beyond the deadline.
    """
    if attempt >= settings.attempts or not _may_help(error, idempotent):
        return None
    delay_s = rng.random() * min(settings.cap_s, settings.base_s * 2.0 ** (attempt - 1))
    if error.retry_after_ms is not None:
        delay_s += error.retry_after_ms / 1000
    return delay_s if now + delay_s < deadline else None


def _may_help(error: TandemError, idempotent: bool) -> bool:
    """Waiting for room is the queue's work (`wait_s`), where places are kept; asking anew would lose the place each time."""
    if error.code is Code.NO_CAPACITY:
        return False
    return error.retryable or (idempotent and error.code is Code.INTERRUPTED)


def remaining_ms(deadline: float, now: float) -> int:
    """Whole milliseconds left until `deadline`, as the header carries them; 0 once it has passed."""
    left = (deadline - now) * 1000
    if 0.0 < left < MAX_WIRE_INT:
        return int(left)
    return 0 if left <= 0.0 else MAX_WIRE_INT


class RetryBudget:
    """Retries an endpoint can bear: about `ratio` of its calls, and a few per second when there are hardly any calls.

    A token bucket after Finagle's RetryBudget and gRPC's retry throttling (proposal A6): a call pays `ratio` in, a retry
    takes 1 out. In any span, retries <= burst + ratio * calls + floor_per_s * seconds.
    """

    __slots__ = ("_balance", "_burst", "_floor_at", "_floor_per_s", "_ratio")

    def __init__(self, settings: RetrySettings, now: float) -> None:
        self._ratio = settings.ratio
        self._burst = settings.burst
        self._floor_per_s = settings.floor_per_s
        self._balance = settings.burst
        self._floor_at = now

    def deposit(self) -> None:
        """Counts one first attempt."""
        balance = self._balance + self._ratio
        self._balance = balance if balance < self._burst else self._burst

    def withdraw(self, now: float) -> bool:
        """Takes one retry out; False when there is none, and the error goes to the caller."""
        earned = (now - self._floor_at) * self._floor_per_s
        self._floor_at = now
        self._balance = min(self._burst, self._balance + earned)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True
