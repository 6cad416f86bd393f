"""The callers who wait for a model: one seat each, told how their wait goes, at once on news and every two seconds.

What there is to tell the roster says (roster.py); this file ties it to the calls. It gives no shares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from common.api.leases import LeaseGranted
from common.api.models import ModelProgress
from common.api.supervisor import AdmitLease
from common.errors import Cancelled, TandemError
from common.service.call import Call

REPEAT_S: Final = 1.75
"""Told again after this long without news: looked at four times a second, so that no two are further apart than two seconds."""


class Seat:
    """One caller: the share that it asked for, and what becomes of it. `waited` once it was not served at once."""

    def __init__(self, asked: AdmitLease, call: Call) -> None:
        self.asked = asked
        self.outcome: asyncio.Future[LeaseGranted] = asyncio.get_running_loop().create_future()
        self.waited = False
        self._call = call
        self._told: tuple[str, int, bool] | None = None
        self._told_at = 0.0

    def end(self, outcome: LeaseGranted | TandemError) -> None:
        """Gives the caller its answer; one who was answered or is gone hears nothing."""
        if self.outcome.done():
            return
        if isinstance(outcome, TandemError):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)

    def tell(self, progress: ModelProgress, now: float) -> None:
        """Streams what is news, or what was told long ago; raises Cancelled when the caller is gone."""
        news = (progress.phase, progress.position, progress.eta_s is None)
        if news != self._told or now - self._told_at >= REPEAT_S:
            self._told, self._told_at = news, now
            self._call.part(progress)


class Seats:
    """All who wait, by ticket."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}

    def __len__(self) -> int:
        return len(self._seats)

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def sit(self, ticket: str, seat: Seat) -> None:
        """Takes one in."""
        self._seats[ticket] = seat

    def get(self, ticket: str) -> Seat | None:
        """The one with this ticket, while it waits."""
        return self._seats.get(ticket)

    def leave(self, ticket: str) -> None:
        """It waits no more."""
        self._seats.pop(ticket, None)

    def tell(self, progress: Callable[[str], ModelProgress], now: float) -> None:
        """Tells everyone who waits still; whoever turns out to be gone leaves by that."""
        for ticket, seat in list(self._seats.items()):
            if seat.outcome.done():
                continue
            seat.waited = True
            try:
                seat.tell(progress(ticket), now)
            except Cancelled as gone:
                seat.end(gone)
