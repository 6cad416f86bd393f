"""When a spool's next batch leaves, how big it is, and what follows from its outcome; sends nothing and never waits.

Back-off is exponential with jitter (M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015). A batch that is
refused for what it says is halved until the record at fault stands alone, which is then given up; one that is refused for any
other reason is sent again until it is taken, for the receiver knows its numbers.
"""

from __future__ import annotations

from typing import Final, Literal

from common.clock import Rng
from common.errors import Code, TandemError

BATCH: Final = 500
"""Records in one message at most."""
BATCH_BYTES: Final = 1024 * 1024
"""Payload bytes in one message at most, but one record always goes."""
RATE_PER_S: Final = 5_000.0
"""Records a second at most, so that many senders who come back at once do not drown the receiver."""
BASE_S: Final = 0.1
CAP_S: Final = 2.0
"""The n-th failure in a row waits between half of min(CAP_S, BASE_S * 2**(n - 1)) and all of it."""
HINT_MS: Final = 30_000
"""The longest that a receiver's `retry_after_ms` is believed."""
BUGS: Final = 5
"""A lone record that made the receiver stumble so often in a row is at fault itself."""

Verdict = Literal["again", "give_up"]

_FAULTY: Final = frozenset((Code.BAD_REQUEST, Code.TOO_LARGE))


def refuses_content(error: TandemError) -> bool:
    """Whether the batch was refused whole and for what it says, so that none of it was taken."""
    return error.code in _FAULTY or error.code is Code.INTERNAL


class Pace:
    """One spool's pace; times are monotonic seconds."""

    def __init__(self) -> None:
        self.batch = BATCH
        self.not_before = 0.0
        self.failures = 0

    def taken(self, count: int, now: float) -> None:
        """`count` records were acknowledged."""
        self.failures = 0
        self.batch = min(BATCH, self.batch * 2)
        self.not_before = now + count / RATE_PER_S

    def refused(self, error: TandemError, count: int, now: float, rng: Rng) -> Verdict:
        """`count` records were not taken: whether they are sent again, or the one record of them is given up."""
        self.failures += 1
        faulty = error.code in _FAULTY
        if refuses_content(error) and count > 1:
            self.batch = count // 2
        if count == 1 and (faulty or (error.code is Code.INTERNAL and self.failures >= BUGS)):
            self.failures = 0
            self.not_before = now
            return "give_up"
        self.not_before = now if faulty else now + self._delay_s(error, rng)
        return "again"

    def _delay_s(self, error: TandemError, rng: Rng) -> float:
        most = min(CAP_S, BASE_S * 2.0 ** min(self.failures - 1, 16))
        return most * (0.5 + rng.random() / 2) + min(error.retry_after_ms or 0, HINT_MS) / 1000
