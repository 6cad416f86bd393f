"""Those who wait for VRAM on one host: granted in their order as soon as there is room, with others going for those who are next.

Who may start is the queue's to say (common/vram/waiting.py), who goes for whom the table's. A caller leaves the line at once when
its time is up, when it is gone, or when its owner has died; what was granted to one who left meanwhile is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from common.api import leases
from common.api.leases import LeaseGranted
from common.api.supervisor import AdmitLease
from common.errors import Cancelled, NoCapacity, StorageUnavailable, TandemError
from common.service.shell import Shell
from common.supervisor.leasing.evictions import Evictions
from common.supervisor.leasing.own_line import Teller
from common.supervisor.leasing.owners import process_of
from common.supervisor.leasing.waiting import Line, Seat, short_reason
from common.supervisor.leasing.writer import LeaseWriter
from common.vram import lease_view, placement
from common.vram.cards import ProcessId
from common.vram.lease_decision import Decision
from common.vram.placement import Choice

WAYS: Final = 8
"""For so many of those who wait, first in line first, others are had go."""
DRAIN_AFTER_S: Final = 60.0
"""Who is first in line and has waited so long gets leases that are in use, when their use ends."""


class Serving:
    """One host's `line`; `record` writes decisions down, `in_doubt` says which cards take nobody who asked at a time."""

    def __init__(
        self,
        shell: Shell,
        host: str,
        writer: LeaseWriter,
        line: Line,
        evictions: Evictions,
        record: Callable[[Decision], object],
        in_doubt: Callable[[float], frozenset[str]],
    ) -> None:
        self._shell = shell
        self._host = host
        self._writer = writer
        self._line = line
        self._evictions = evictions
        self._record = record
        self._in_doubt = in_doubt
        self._now = shell.clock.monotonic
        self._serving_soon = False
        self._closed = False

    def close(self, why: TandemError) -> None:
        """Sends everyone away, and serves nobody any more."""
        self._closed = True
        for seat in self._line:
            seat.end(why)

    def owner_died(self, owner: ProcessId) -> None:
        """Sends those away for whose process a lease was asked."""
        for seat in self._line:
            if process_of(seat.asked, self._host) == owner:
                seat.end(Cancelled(f"process {owner.pid}, for which this lease was asked, has ended"))

    def decision(self, asked: AdmitLease, asked_at: float) -> Decision:
        """What becomes of a request now, with what is kept from it by those ahead of it, and what is not sure to be free."""
        now = self._now()
        if asked.ram_bytes:
            self._writer.see_ram()
        kept = self._line.kept_from(asked.priority, asked_at) | self._in_doubt(asked_at)
        if self._writer.settling:
            kept |= self._writer.settling.unsure(self._writer.table.candidates(now, asked.lease_id), asked.bytes)
        return self._writer.table.admit(asked, now, self._shell.clock.timestamp(), kept)

    async def wait(self, asked: AdmitLease, call: Teller, asked_at: float, deadline: float) -> LeaseGranted:
        """The lease once it is its turn; an error with what it still lacks when its time is up. `call` hears how it goes."""
        now = self._now()
        seat = self._line.sit(asked, call, asked_at, deadline)
        owner = process_of(asked, self._host)
        if owner is not None:
            self._writer.owners.hold(owner, asked.lease_id)
        late = self._shell.loop.call_later(deadline - now, self._give_up, seat)
        self._note(seat, "queued", self._choice(seat))
        try:
            self._make_way(now)
            self._tell_line()
            return await seat.outcome
        except TandemError as error:
            self._left(seat, error.message)
            raise
        except asyncio.CancelledError:
            self._left(seat, "its caller left")
            if seat.granted is not None:
                self._give_back(seat.granted)
            raise
        finally:
            late.cancel()
            if not self._line.waits(asked.lease_id):  # else it was asked again, and goes on under the same id
                self._let_go(seat, owner)

    def _let_go(self, seat: Seat, owner: ProcessId | None) -> None:
        """Nothing hangs on its owner any more, and no room is kept for it."""
        if owner is not None:
            self._writer.owners.drop(owner, seat.asked.lease_id)
        try:
            self._writer.make_sound()
        except StorageUnavailable:
            return  # it is kept for a while, and then no more
        self._evictions.forget_way(seat)

    def _choice(self, seat: Seat) -> Choice:
        now, table = self._now(), self._writer.table
        kept = self._line.kept_from(seat.asked.priority, seat.waiter.asked_at)
        choice = placement.choose(seat.waiter.wish, table.candidates(now), kept, missing=table.missing())
        short = table.short_of_host(seat.asked)
        if not short:
            return choice
        reason = short_reason(seat.asked, short)
        return msgspec.structs.replace(choice, outcome="wait", card=None, cards=(), reason=reason)

    def _note(self, seat: Seat, decided: str, choice: Choice, reason: str = "") -> None:
        note = lease_view.choice_note(seat.asked, choice, self._shell.clock.timestamp())
        receipt = msgspec.structs.replace(note.receipt, decision=decided, reason=reason or choice.reason)
        self._writer.note(receipt, note.idempotency_key)

    def _give_up(self, seat: Seat) -> None:
        """The seat's time is up: it is refused with what it still lacks."""
        if seat not in self._line:
            return
        choice, place = self._choice(seat), self._line.place(seat)
        waited_s = self._now() - seat.waiter.asked_at
        self._line.leave(seat)
        self._note(seat, "refused", choice, f"{choice.reason}, after a wait of {waited_s:.1f} s")
        seat.end(placement.refusal(seat.waiter.wish, choice, position=place))
        self.serve_soon()

    def _left(self, seat: Seat, why: str) -> None:
        """The caller is gone or was sent away: its place is free for others."""
        if seat.outcome.done() and not seat.outcome.cancelled():
            seat.outcome.exception()  # whoever could hear it has heard it
        if seat in self._line:
            self._note(seat, "withdrawn", self._choice(seat), why)
            self._line.leave(seat)
            self.serve_soon()

    def _give_back(self, granted: LeaseGranted) -> None:
        """Ends a lease that was granted while its caller left, who so cannot have heard of it."""
        held = leases.ReleaseLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
        try:
            self._writer.make_sound()
            self._record(self._writer.table.release(held, self._now(), self._shell.clock.timestamp()))
        except TandemError as error:
            self._shell.log.warning("lease %s, whose caller left, was not given back: %s", granted.lease_id, error)

    def serve_soon(self) -> None:
        """Tries the line once in the next turn, however many reasons this one has."""
        if len(self._line) and not self._serving_soon:
            self._serving_soon = True
            self._shell.loop.call_soon(self.serve)

    def serve(self) -> None:
        """Starts whoever may start now, and tells the others where they stand."""
        self._serving_soon = False
        if not len(self._line) or self._closed:
            return
        try:
            self._writer.make_sound()
        except StorageUnavailable:
            return  # the health answer says so; the next tick tries again
        now = self._now()
        sure = self._writer.settling.sure(self._writer.table.candidates(now))
        for seat in self._line.startable(sure, now, self._evictions.rooms(), self._short()):
            self._start(seat)
        self._make_way(now)
        self._tell_line()

    def _make_way(self, now: float) -> None:
        """Has others go for those who are next; for the first, once it has waited long, also those whose use has to end."""
        for place, seat in enumerate(self._line.first(WAYS)):
            draining = place == 0 and now - seat.waiter.asked_at >= DRAIN_AFTER_S
            kept = self._line.kept_from(seat.asked.priority, seat.waiter.asked_at)
            self._evictions.make_way(seat, kept, draining=draining)

    def _start(self, seat: Seat) -> None:
        if seat.outcome.done():
            return  # its caller is leaving, and leaves the line in the next turn
        decision = self.decision(seat.asked, seat.waiter.asked_at)
        if isinstance(decision.reply, NoCapacity) or self._rests_on_doubt(seat, decision):
            return
        self._line.leave(seat)
        try:
            granted = granted_of(self._record(decision))
        except TandemError as error:
            seat.end(error)
            return
        seat.granted = granted
        self._shell.journal.hold(lambda failure: seat.end(failure or granted))

    def _rests_on_doubt(self, seat: Seat, decision: Decision) -> bool:
        """Whether it would get a card that has to be looked at first, be it kept for it or not."""
        granted, doubt = decision.reply, self._in_doubt(seat.waiter.asked_at)
        return isinstance(granted, LeaseGranted) and not doubt.isdisjoint(granted.card_uuids)

    def _tell_line(self) -> None:
        now, table = self._now(), self._writer.table
        self._line.tell(table.candidates(now), table.missing(), now, self._short())

    def _short(self) -> dict[str, str]:
        """Of what the host, beside its cards, has too little by now for those who wait, by lease id."""
        wanting = [
            seat.asked for seat in self._line if seat.asked.ram_bytes or seat.asked.disk_bytes or seat.asked.cpu_cores
        ]
        if any(asked.ram_bytes for asked in wanting):
            self._writer.see_ram()
        short = {asked.lease_id: self._writer.table.short_of_host(asked) for asked in wanting}
        return {lease_id: why for lease_id, why in short.items() if why}


def granted_of(reply: object) -> LeaseGranted:
    """The reply to a request that was granted."""
    assert isinstance(reply, LeaseGranted)
    return reply
