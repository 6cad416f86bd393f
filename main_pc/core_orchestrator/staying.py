"""Callers who stay: their calls, their time, and the parts and last words that `waiters` has for them.

A caller is answered a little before its own budget ends, so that it gets the request's state and not a time-out. One that is
gone leaves; its request goes on. It never touches a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, Final

from common.api.core_orchestrator import RequestStatus
from common.clock import Clock
from common.errors import Cancelled
from common.service.call import Call
from main_pc.core_orchestrator.request_book import RequestBook
from main_pc.core_orchestrator.waiters import Finish, Notify, Waiter, Waiters

_TICK_S: Final = 0.005
"""Timers may fire this much early by the clock that `until` is measured on."""


@dataclass(frozen=True, slots=True)
class _Stay:
    call: Call
    over: asyncio.Future[None]


class Staying:
    """Everyone who stays, on the running loop."""

    def __init__(self, book: RequestBook, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._book = book
        self._now = clock.monotonic
        self._waiters = Waiters()
        self._here: dict[str, _Stay] = {}
        self._names = count(1)

    def __len__(self) -> int:
        return len(self._here)

    async def until_ended(self, request_id: str, call: Call, wait_s: float) -> None:
        """Stay until the request ends, `wait_s` or the caller's budget is over; Cancelled when the caller is gone."""
        now, waiter_id = self._now(), str(next(self._names))
        wait_s = call.patience_s(now, wait_s)
        stay = self._here[waiter_id] = _Stay(call, self._loop.create_future())
        timer = self._loop.call_later(wait_s + _TICK_S, self._late)
        try:
            waiter = Waiter(waiter_id, request_id, now + wait_s, call.streams)
            self._tell(self._waiters.stay(waiter, self._book.status(request_id), now))
            await stay.over
        finally:
            timer.cancel()
            self._waiters.leave(waiter_id)
            del self._here[waiter_id]

    def told(self, status: RequestStatus) -> None:
        """A request's state changed, and that is durable."""
        self._tell(self._waiters.told(status))

    def part(self, request_id: str, part: Any) -> None:
        """The agent streamed a part for the attempt that the request waits for."""
        self._tell(self._waiters.part(self._book.status(request_id), part))

    def dismiss(self) -> None:
        """Answer everyone with the state as it stands: the service is about to end."""
        self._tell(self._waiters.late(inf))

    def _late(self) -> None:
        self._tell(self._waiters.late(self._now()))

    def _tell(self, notices: Iterable[Notify]) -> None:
        for notice in notices:
            stay = self._here.get(notice.waiter_id)
            if stay is None or stay.over.done():
                continue
            if isinstance(notice, Finish):
                stay.over.set_result(None)
                continue
            try:
                stay.call.part(notice.progress)
            except Cancelled as gone:
                stay.over.set_exception(gone)
