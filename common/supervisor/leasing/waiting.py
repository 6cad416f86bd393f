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

    __slots__ = ("_call", "_progress", "_short", "_told_at", "asked", "granted", "outcome", "waiter", "way_at")

    def __init__(self, asked: AdmitLease, call: Teller, waiter: Waiter) -> None:
        self.asked = asked
        self.waiter = waiter
        self.outcome: asyncio.Future[LeaseGranted] = asyncio.get_running_loop().create_future()
        self.granted: LeaseGranted | None = None
        self.way_at = float("-inf")
        self._call = call
        self._progress: LeaseProgress | None = None
        self._short = ""
        self._told_at = 0.0

    def end(self, outcome: LeaseGranted | TandemError) -> None:
        """Gives the caller its answer; one who was answered or is gone hears nothing."""
        if self.outcome.done():
            return
        if isinstance(outcome, TandemError):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)

    def tell(self, news: LeaseProgress | None, short: str, now: float) -> None:
        """Streams the caller its place where that is news, or was told long ago; raises Cancelled when it is gone.

        `short` is why the host, beside its cards, has too little for it by now.
        """
        late = now - self._told_at >= REPEAT_S
        self._progress = progress = news or self._progress
        if progress is None or not (news or late or short != self._short):
            return
        self._short, self._told_at = short, now
        reason = short_reason(self.asked, short) if short else progress.reason
        self._call.part(msgspec.structs.replace(progress, reason=reason, waited_s=max(0.0, now - self.waiter.asked_at)))


def short_reason(asked: AdmitLease, short: str) -> str:
    """Why the request waits where the host, beside its cards, has too little for it."""
    return f"{asked.model} needs {wish_of(asked).need}; {short}"


class Line:
    """All seats; times in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._queue = LeaseQueue()
        self._seats: dict[str, Seat] = {}

    def __len__(self) -> int:
        return len(self._seats)

    def __contains__(self, seat: Seat) -> bool:
        return self._seats.get(seat.waiter.ticket) is seat

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def sit(self, asked: AdmitLease, call: Teller, now: float, deadline: float) -> Seat:
        """A seat in the line. The same request under the same key or lease id takes the place of the one that waits already.

        Raises IdempotencyMismatch where another request waits under that.
        """
        older, under = self._older(asked)
        asked_at = now if older is None else older.waiter.asked_at
        if older is not None:
            if body_of(older.asked) != body_of(asked):
                raise IdempotencyMismatch(f"another request waits under this {under}")
            self.leave(older)
            older.end(Cancelled(f"asked again under the same {under}; that request waits in this one's place"))
        waiter = Waiter(asked.lease_id, wish_of(asked), asked.priority, asked_at, deadline)
        seat = self._seats[asked.lease_id] = Seat(asked, call, waiter)
        self._queue.add(waiter)
        return seat

    def leave(self, seat: Seat) -> bool:
        """Takes the seat out of the line; whether it was in it."""
        if seat not in self:
            return False
        self._queue.remove(seat.waiter.ticket)
        del self._seats[seat.waiter.ticket]
        return True

    def waits(self, lease_id: str) -> bool:
        """Whether anybody waits under this lease id."""
        return lease_id in self._seats

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

    def startable(
        self,
        cards: Sequence[Candidate],
        now: float,
        rooms: Mapping[str, Sequence[Candidate]],
        short: Mapping[str, str],
    ) -> list[Seat]:
        """Who may start now, in line order; `rooms` are by lease id, where room was made, the cards as that one sees them.

        Those for whom the host is `short`, by lease id, start on none, and take nothing from those behind them.
        """
        seen = {**rooms, **dict.fromkeys(short, ())}
        return [self._seats[waiter.ticket] for waiter, _ in self._queue.startable(cards, now, seen)]

    def tell(
        self, cards: Sequence[Candidate], missing: Mapping[str, str], now: float, short: Mapping[str, str]
    ) -> None:
        """Streams everyone what changed for them; whoever turns out to be gone is told so, and leaves by that.

        `short` says by lease id of what the host has too little for them.
        """
        news = {each.waiter.ticket: each.progress for each in self._queue.news(cards, missing, now)}
        for seat in self:
            ticket = seat.waiter.ticket
            try:
                seat.tell(news.get(ticket), short.get(ticket, ""), now)
            except Cancelled as gone:
                seat.end(gone)

    def _older(self, asked: AdmitLease) -> tuple[Seat | None, str]:
        """The seat that the request has already, and by what it is known to be the same."""
        key = (asked.identity, asked.idempotency_key)
        if asked.idempotency_key:
            for seat in self:
                if (seat.asked.identity, seat.asked.idempotency_key) == key:
                    return seat, "idempotency key"
        return self._seats.get(asked.lease_id), "lease id"
