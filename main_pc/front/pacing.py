"""How much of an answer from another host was taken, told to whoever sends it beside the reading, and told until it was heard.

The sender stops at a window ahead of what it heard. So news that was lost would leave both waiting for each other: it is told
again, with what has been taken by then, until somebody heard it. A sum may be told twice, and an old one changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from common.api.models import WINDOW_BYTES

TOLD_EVERY_BYTES: Final = WINDOW_BYTES // 4
AGAIN_S: Final = 1.0
"""How long after it was not heard it is told again."""


class Progress:
    """Of one answer; `tell` tells the bytes taken in all, and says whether that was heard."""

    def __init__(
        self, tell: Callable[[int], Awaitable[bool]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._tell = tell
        self._sleep = sleep
        self._taken = 0
        self._heard = 0
        self._due = asyncio.Event()

    def took(self, count: int) -> None:
        """So many bytes more were taken."""
        self._taken += count
        if self._is_due:
            self._due.set()

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Tells it while the block is run."""
        task = asyncio.create_task(self._tell_on())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @property
    def _is_due(self) -> bool:
        return self._taken - self._heard >= TOLD_EVERY_BYTES

    async def _tell_on(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            while self._is_due:
                taken = self._taken
                if await self._tell(taken):
                    self._heard = taken
                else:
                    await self._sleep(AGAIN_S)
