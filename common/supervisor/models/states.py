"""One model's states and the moves between them, with the row of its failures; never decides who is served nor touches an engine.

    absent, failed, parked --want--> queued --begin--> loading --prove--> ready
    queued --forgo--> absent, --rest--> parked            nobody wants it any more
    loading --retry--> queued                             there was no room after all, or a sleeper would not wake
    absent --find--> ready                                an engine that runs already had it loaded
    ready, parked, loading --leave--> expiring            its room is wanted
    expiring --sleep--> parked, --end--> absent
    any but absent --fail--> failed                       its engine died, or the load did not succeed

From expiring there is no way back to ready: whoever wants the model then waits for its next load. An illegal move raises with
the story so far.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final

from common.api.models import ModelState
from common.errors import Internal

STORY: Final = 20
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""After the n-th failure in a row the next load waits min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2^(n-1)) seconds."""


class Move(StrEnum):
    """What can happen to a model."""

    WANT = "want"
    FORGO = "forgo"
    REST = "rest"
    BEGIN = "begin"
    PROVE = "prove"
    RETRY = "retry"
    FIND = "find"
    LEAVE = "leave"
    SLEEP = "sleep"
    END = "end"
    FAIL = "fail"


NEXT: Final[dict[tuple[ModelState, Move], ModelState]] = {
    ("absent", Move.WANT): "queued",
    ("failed", Move.WANT): "queued",
    ("parked", Move.WANT): "queued",
    ("absent", Move.FIND): "ready",
    ("failed", Move.FIND): "ready",
    ("queued", Move.FORGO): "absent",
    ("queued", Move.REST): "parked",
    ("queued", Move.BEGIN): "loading",
    ("queued", Move.LEAVE): "expiring",
    ("queued", Move.FAIL): "failed",
    ("loading", Move.PROVE): "ready",
    ("loading", Move.RETRY): "queued",
    ("loading", Move.LEAVE): "expiring",
    ("loading", Move.FAIL): "failed",
    ("ready", Move.LEAVE): "expiring",
    ("ready", Move.END): "absent",
    ("ready", Move.FAIL): "failed",
    ("parked", Move.LEAVE): "expiring",
    ("parked", Move.END): "absent",
    ("parked", Move.FAIL): "failed",
    ("expiring", Move.SLEEP): "parked",
    ("expiring", Move.END): "absent",
    ("expiring", Move.FAIL): "failed",
    ("failed", Move.END): "absent",
}


def pause_s(failures: int) -> float:
    """How long the next load waits after so many failures in a row."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16)) if failures else 0.0


class ModelLife:
    """One model's state, since when, and how often in a row it failed. What is public may be read."""

    def __init__(self, name: str, at: float) -> None:
        self.name = name
        self.state: ModelState = "absent"
        self.since = at
        self.failures = 0
        self.retry_at = at
        self.problem = ""
        self._story: deque[str] = deque(maxlen=STORY)

    def move(self, move: Move, at: float) -> ModelState:
        """The state it was in; Internal with the story where it knows no such move."""
        was, following = self.state, NEXT.get((self.state, move))
        if following is None:
            raise Internal(f"model {self.name} is {was}, which knows no {move}; before: {self.story() or 'nothing'}")
        self._story.append(f"{at:.3f} {was} --{move}--> {following}")
        self.state, self.since = following, at
        if following == "ready":
            self.failures, self.problem = 0, ""
        return was

    def fail(self, reason: str, at: float) -> ModelState:
        """It failed: the next load waits longer than the last one did. The state it was in."""
        was = self.move(Move.FAIL, at)
        self.failures += 1
        self.problem = reason
        self.retry_at = at + pause_s(self.failures)
        return was

    def may_retry(self, at: float) -> bool:
        """Whether a load may be tried: always but in the pause after a failure."""
        return self.state != "failed" or at >= self.retry_at

    def story(self) -> str:
        """The last moves, oldest first."""
        return "; ".join(self._story)
