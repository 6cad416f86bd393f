"""The callers who wait for VRAM: one seat each, told of their place, and out of the line at once when they leave.

The order and what may start are the queue's decisions (common/vram/waiting.py); this file ties them to the calls. It grants
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from common.api.leases import LeaseGranted, LeaseProgress
from common.api.supervisor import AdmitLease
from common.errors import Cancelled, IdempotencyMismatch, TandemError
from common.supervisor.leasing.own_line import Teller
from common.vram.lease_view import body_of
from common.vram.placement import Candidate, Wish
from common.vram.waiting import LeaseQueue, Waiter

REPEAT_S: Final = 2.0
"""A caller's place is told again after this long without news, so that one who is gone is noticed."""


def wish_of(asked: AdmitLease) -> Wish:
    """What is to be placed."""
    return Wish.of(asked)


class Seat:
    """One caller in the line: what it asked, and what becomes of it.

    `granted` is set when decided, before it is committed; `way_at` is when others were last asked to make way for it.
    """

    __slots__ = ("_call", "_progress", "_told_at", "asked", "granted", "outcome", "waiter", "way_at")

    def __init__(self, asked: AdmitLease, call: Teller, waiter: Waiter) -> None:
        self.asked = asked
        self.waiter = waiter
        self.outcome: asyncio.Future[LeaseGranted] = asyncio.get_running_loop().create_future()
        self.granted: LeaseGranted | None = None
        self.way_at = float("-inf")
        self._call = call
        self._progress: LeaseProgress | None = None
        self._told_at = 0.0

    def end(self, outcome: LeaseGranted | TandemError) -> None:
        """Gives the caller its answer; one who was answered or is gone hears nothing."""
        if self.outcome.done():
            return
        if isinstance(outcome, TandemError):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)

    def tell(self, progress: LeaseProgress, now: float) -> None:
        """Streams the caller its place; raises Cancelled when it is gone."""
        self._progress, self._told_at = progress, now
        self._call.part(progress)

    def repeat(self, now: float) -> None:
        """Streams the last place again where it was told long ago; raises Cancelled when the caller is gone."""
        if self._progress is not None and now - self._told_at >= REPEAT_S:
            self.tell(msgspec.structs.replace(self._progress, waited_s=now - self.waiter.asked_at), now)


class Line:
    """All seats; times in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._queue = LeaseQueue()
        self._seats: dict[str, Seat] = {}

    def __len__(self) -> int:
        return len(self._seats)

    def __contains__(self, seat: Seat) -> bool:
        return seat.waiter.ticket in self._seats

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def sit(self, asked: AdmitLease, call: Teller, now: float, deadline: float) -> Seat:
        """A seat in the line. The same request under the same key takes the place of the one that waits already.

        Raises IdempotencyMismatch where another request waits under that key.
        """
        older = self._under_key(asked)
        asked_at = now if older is None else older.waiter.asked_at
        if older is not None:
            if body_of(older.asked) != body_of(asked):
                raise IdempotencyMismatch("another request waits under this idempotency key")
            self.leave(older)
            older.end(Cancelled("asked again under the same idempotency key; that request waits in this one's place"))
        waiter = Waiter(asked.lease_id, wish_of(asked), asked.priority, asked_at, deadline)
        seat = self._seats[asked.lease_id] = Seat(asked, call, waiter)
        self._queue.add(waiter)
        return seat

    def leave(self, seat: Seat) -> bool:
        """Takes the seat out of the line; whether it was in it."""
        self._queue.remove(seat.waiter.ticket)
        return self._seats.pop(seat.waiter.ticket, None) is not None

    def position(self, asked: AdmitLease, now: float) -> int:
        """The place a newcomer would have; 1 is next."""
        newcomer = Waiter(asked.lease_id, wish_of(asked), asked.priority, now, now)
        self._queue.add(newcomer)
        place = self._queue.position(newcomer.ticket)
        self._queue.remove(newcomer.ticket)
        return place

    def place(self, seat: Seat) -> int:
        """The seat's place; 1 is next."""
        return self._queue.position(seat.waiter.ticket)

    def kept_from(self, priority: int, asked_at: float) -> frozenset[str]:
        """The cards kept from such a request by those ahead of it."""
        return self._queue.kept_from(priority, asked_at) if self._seats else frozenset()

    def first(self, count: int) -> list[Seat]:
        """Who is next, at most `count`."""
        return [self._seats[ticket] for ticket in self._queue.first(count)]

    def startable(self, cards: Sequence[Candidate], now: float, rooms: Mapping[str, Sequence[Candidate]]) -> list[Seat]:
        """Who may start now, in line order; `rooms` are by lease id, where room was made, the cards as that one sees them."""
        return [self._seats[waiter.ticket] for waiter, _ in self._queue.startable(cards, now, rooms)]

    def tell(self, cards: Sequence[Candidate], missing: Mapping[str, str], now: float) -> None:
        """Streams everyone what changed for them; whoever turns out to be gone is told so, and leaves by that."""
        news = {each.waiter.ticket: each.progress for each in self._queue.news(cards, missing, now)}
        for seat in self:
            try:
                if seat.waiter.ticket in news:
                    seat.tell(news[seat.waiter.ticket], now)
                else:
                    seat.repeat(now)
            except Cancelled as gone:
                seat.end(gone)

    def _under_key(self, asked: AdmitLease) -> Seat | None:
        if not asked.idempotency_key:
            return None
        key = (asked.identity, asked.idempotency_key)
        return next((s for s in self if (s.asked.identity, s.asked.idempotency_key) == key), None)
