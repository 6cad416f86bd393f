"""What a failed run means: whether the task is tried again and when, or how it ends.

    the agent did nothing (unavailable, overloaded, ...)    tried again; no attempt is counted, for a task waits for an agent
    the error says that no other try can help               failed
    anything else, a time-out or a crash midway included    tried again while attempts are left, then dead

Back-off is exponential with full jitter (M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015), on top of
what the agent asked for by `retry_after_ms`, MOST_ASKED_S at most. It counts nothing and keeps nothing.
"""

from __future__ import annotations

from typing import Final

from common.clock import Rng
from common.dispatch.answers import NOTHING_DONE
from common.errors import Code, TandemError
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.task import Ended, Returned, Task

HOPELESS: Final = frozenset(
    {
        Code.BAD_REQUEST,
        Code.TOO_LARGE,
        Code.IDEMPOTENCY_MISMATCH,
        Code.UNAUTHENTICATED,
        Code.FORBIDDEN,
        Code.NOT_FOUND,
        Code.CONFLICT,
    }
)
"""Codes that say the same task would fare the same anywhere."""

LONGEST: Final = 2_000
"""Characters of an agent's message that are kept."""

MOST_ASKED_S: Final = 3_600.0
"""No agent puts a task off for longer than this by what it asks for."""

_DOUBLINGS: Final = 30


def verdict(task: Task, error: TandemError, limits: Limits, rng: Rng) -> Returned | Ended:
    """What becomes of a running task whose call ended with `error`."""
    message = error.message[:LONGEST]
    at_agent = f"attempt {task.attempts} at {task.agent_name}: {message}"
    if error.code in NOTHING_DONE:
        return Returned(task.task_id, at_agent, _delay_s(task.runs, error, limits.refused_max_s, limits, rng), False)
    if error.code in HOPELESS:
        return Ended(task.task_id, "failed", error.code, message)
    if task.attempts >= task.max_attempts:
        tried = f"{task.attempts} attempts came to nothing; the last: {message}"
        return Ended(task.task_id, "dead", error.code, tried)
    return Returned(task.task_id, at_agent, _delay_s(task.attempts, error, limits.backoff_max_s, limits, rng), True)


def _delay_s(times: int, error: TandemError, most_s: float, limits: Limits, rng: Rng) -> float:
    delay_s = rng.random() * min(most_s, limits.backoff_s * 2.0 ** min(times - 1, _DOUBLINGS))
    return delay_s + min(MOST_ASKED_S, (error.retry_after_ms or 0) / 1000)
