"""What a process does again and again, each at its own pace: one timer wakes it for all that is due.

All paces begin together, so that works whose paces divide each other share their wake-ups. It decides nothing about the works.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

TOGETHER_S: Final = 0.005
"""Works that are due within this time are done in one turn."""


class Paces:
    """The works of one process, on the running loop; what a work raises is logged and ends nothing."""

    def __init__(self, log: logging.Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._began = self._loop.time()
        self._due: list[tuple[float, int, float, Callable[[], None]]] = []
        self._known = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def every(self, seconds: float, work: Callable[[], None]) -> None:
        """Do `work` about every so many seconds until `stop`."""
        self._known += 1
        self._plan(self._known, seconds, work)
        self._arm()

    def stop(self) -> None:
        """Do nothing more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _plan(self, number: int, seconds: float, work: Callable[[], None]) -> None:
        turns = round((self._loop.time() - self._began) / seconds) + 1
        heappush(self._due, (self._began + turns * seconds, number, seconds, work))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due[0][0], self._turn) if not self._stopped else None

    def _turn(self) -> None:
        until, due = self._loop.time() + TOGETHER_S, []
        while self._due and self._due[0][0] <= until:
            due.append(heappop(self._due))
        for _, number, seconds, work in due:
            if self._stopped:
                return
            try:
                work()
            except (Exception, asyncio.CancelledError):  # it may have met a task that was cancelled
                self._log.exception("the work done every %s s failed", seconds)
            self._plan(number, seconds, work)
        self._arm()
