"""How far an engine's answer may run ahead of whoever reads it: no further than a window beyond what that one says to have taken.

Where the reader stops, so does the answer, and the engine's connection with it: nothing piles up between them. A reader that
names itself nothing says nothing of its progress, and gets WHOLE_BYTES at most. It sends and reads nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from common.api.models import WINDOW_BYTES, AskModel, PaceModel
from common.errors import Conflict, DeadlineExceeded, Interrupted

WHOLE_BYTES: Final = 16 * 2**20
"""What a caller that tells nothing of its progress gets at most."""
LOOK_S: Final = 5.0
"""How often it is looked whether a reader that takes nothing may still read."""
STANDSTILL_S: Final = 600.0
"""How long a reader may take nothing."""


class Pace:
    """One answer: what was sent of it, and what of that its reader has taken."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._sent = 0
        self._taken = 0
        self._moved = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether more may be sent."""
        return self._sent - self._taken < self._window_bytes

    def sent(self, count: int) -> None:
        """So many bytes more are on their way."""
        self._sent += count

    def taken(self, total: int) -> None:
        """The reader has taken so many bytes in all; less than it said before is an old message, and nothing."""
        taken = min(total, self._sent)
        if taken > self._taken:
            self._taken = taken
            self._moved.set()

    async def moved(self, within_s: float) -> bool:
        """Waits until the reader has taken more; False where it does not within `within_s`."""
        self._moved.clear()
        try:
            await asyncio.wait_for(self._moved.wait(), within_s)
        except TimeoutError:
            return False
        return True


class Paces:
    """The answers under way, by share and reader."""

    def __init__(self) -> None:
        self._paces: dict[tuple[str, int, str], Pace] = {}

    def __len__(self) -> int:
        return len(self._paces)

    @contextmanager
    def of(self, asked: AskModel) -> Iterator[Pace]:
        """The pace of one answer, while it is under way; Conflict where its reader's name is another answer's."""
        if not asked.reader:
            yield Pace(WHOLE_BYTES)
            return
        key = asked.lease_id, asked.fencing_token, asked.reader
        if key in self._paces:
            raise Conflict(f"{asked.reader!r} reads another answer under lease {asked.lease_id}")
        pace = self._paces[key] = Pace(WINDOW_BYTES)
        try:
            yield pace
        finally:
            del self._paces[key]

    def taken(self, told: PaceModel) -> None:
        """A reader told how far it has come; of an answer that is over by now no matter."""
        pace = self._paces.get((told.lease_id, told.fencing_token, told.reader))
        if pace is not None:
            pace.taken(told.taken_bytes)


def too_long() -> Interrupted:
    """The end of an answer whose reader told nothing of its progress."""
    return Interrupted(
        f"the engine's answer has more than {WHOLE_BYTES} bytes; ask by a client that takes parts and paces them"
    )


def stood_still() -> DeadlineExceeded:
    """The end of an answer that nobody reads."""
    return DeadlineExceeded(f"whoever reads the engine's answer took nothing for {STANDSTILL_S:.0f} s")
