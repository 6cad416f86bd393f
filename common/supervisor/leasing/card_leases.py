"""The VRAM leases on one host's own cards: serves the lease verbs, and notices whoever dies, leaves or is late.

The pure rules decide (common/vram), the writer makes their decisions durable, and looks at the cards come in from aside. This
shell brings them together. It asks no other host, so it grants, renews and ends leases as well when it is alone.

A request with `wait_s` waits that long, at most as long as its caller does; it leaves at once when its caller does or its owner
dies. A request that would need bytes of a lease that just ended waits at most SETTLE_S for the look that shows them free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from common.api import leases, supervisor
from common.api.leases import AcquireLease, LeaseGranted
from common.api.supervisor import AdmitLease
from common.api.words import Empty
from common.errors import Cancelled, NoCapacity, StorageUnavailable, TandemError, Unavailable
from common.gpu.cards import CardSource
from common.ids import new_id
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.leasing.card_watch import CardWatch
from common.supervisor.leasing.evictions import Evictions
from common.supervisor.leasing.footprints import Learning
from common.supervisor.leasing.own_line import OwnLine, Teller
from common.supervisor.leasing.owners import pinned, process_of
from common.supervisor.leasing.rung_acts import FindUnloader, nobody
from common.supervisor.leasing.sampling import HERE, Look
from common.supervisor.leasing.strangers import Strangers
from common.supervisor.leasing.views import LeaseViews
from common.supervisor.leasing.waiting import Line, Seat
from common.supervisor.leasing.writer import LeaseWriter
from common.vram import lease_view, placement
from common.vram.cards import ProcessId
from common.vram.footprint import Footprints
from common.vram.lease_decision import Decision, EvictionOrder
from common.vram.lease_facts import Ended, GivenBack
from common.vram.placement import Choice
from common.vram.rungs import DEFAULT, LadderPolicy

TICK_S: Final = 0.25
SETTLE_S: Final = 0.5
"""How long a request may wait for the look that shows a lease's bytes gone."""
WAYS: Final = 8
"""For so many of those who wait, first in line first, others are had go."""
DRAIN_AFTER_S: Final = 60.0
"""Who is first in line and has waited so long gets leases that are in use, when their use ends."""


class CardLeases:
    """One host's leases; `cards` None with the `problem` that says why there are none. Takes the cards over and closes them.

    `neighbours` are the hosts on this same machine, whose processes can be watched from here. `unloader` finds whoever knows how
    the owner of a lease that has to go gives its memory back, beyond what the lease says. `footprints` are those of this host,
    where whoever runs its engines has restored them already.
    """

    def __init__(
        self,
        shell: Shell,
        host: str,
        cards: CardSource | None,
        problem: str = "",
        neighbours: Collection[str] = (),
        unloader: FindUnloader = nobody,
        policy: LadderPolicy = DEFAULT,
        home: Path = HERE,
        footprints: Footprints | None = None,
    ) -> None:
        self._shell = shell
        self._host = host
        self._neighbours = frozenset(neighbours)
        self._now = shell.clock.monotonic
        self._line = Line()
        self._own_footprints = footprints is None
        self._writer = LeaseWriter(shell, host, self._owner_died, self._evict, footprints)
        self.learning = Learning(shell, host, self._writer, self._writer.footprints)
        self._cards = CardWatch(shell, host, cards, problem, self._writer, self._line, self._seen, home)
        self._evictions = Evictions(
            shell, self._writer, self._record, self._cards.look_soon, unloader, policy, self.learning
        )
        self.strangers = Strangers(shell, self._writer, self._cards.look_soon)
        self.own = OwnLine(shell, host, self._writer, self._grant, self._record)
        self._serving_soon = False
        self._closed = False

    def add_routes(self) -> None:
        """Serves the lease verbs and admit_lease on the shell."""
        self._shell.handle(leases.ACQUIRE_LEASE, self._acquire)
        self._shell.handle(supervisor.ADMIT_LEASE, self._admit)
        self._shell.handle(leases.RENEW_LEASE, self._renew)
        self._shell.handle(leases.RELEASE_LEASE, self._release)
        LeaseViews(self._shell, self._host, self._writer, self._line, self.learning).add_routes()
        self._evictions.add_routes()
        self.learning.figures.show(self._shell.metrics)
        self._shell.metrics.read_gauge(
            "tandem_vram_away", "Leases that made way for programs without one.", lambda: self.strangers.away
        )

    async def open(self) -> None:
        """Restores the leases, watches their owners, opens a fence epoch and takes a first look.

        Raises CorruptRecord, and StorageUnavailable while the store cannot be read; one that only takes no writes is waited for.
        """
        if self._own_footprints:
            self.learning.known.restore(self._shell.store)
        self._writer.open()
        await self._cards.open()
        self._shell.every(TICK_S, self._tick)

    async def close(self) -> None:
        """Sends the waiting away, watches nothing more and lets go of the cards; the leases stay."""
        self._closed = True
        self.learning.keep(0.0)
        for seat in self._line:
            seat.end(self._closing())
        await self._evictions.close()
        self._writer.close()
        await self._cards.close()

    def _evict(self, order: EvictionOrder) -> None:
        self._evictions.begin(order)

    def _seen(self, look: Look) -> None:
        self._evictions.looked(look)
        self.strangers.looked(look)
        self.learning.looked()
        self._correct()
        self._serve()

    def _correct(self) -> None:
        """Has each lease count what the looks show its owner to hold beyond it."""
        try:
            self._writer.make_sound()
        except StorageUnavailable:
            return  # the health answer says so; the next look tries again
        self._record(self._writer.table.corrections(self._now(), self._shell.clock.timestamp()))

    def _closing(self) -> Unavailable:
        return Unavailable(f"{self._host}'s supervisor is shutting down", retry_after_ms=500)

    async def _acquire(self, asked: AcquireLease, call: Call) -> LeaseGranted:
        lease_id = new_id("lease", self._shell.rng)
        fields = msgspec.structs.asdict(asked)
        request = pinned(AdmitLease(**fields, lease_id=lease_id, identity=call.identity), self._host, self._neighbours)
        wait_s = call.patience_s(self._now(), asked.wait_s) if self._cards.has_cards else 0.0
        return await self._grant_learned(request, call, wait_s)

    async def _admit(self, asked: AdmitLease, call: Call) -> LeaseGranted:
        wait_s = call.patience_s(self._now(), asked.wait_s) if self._cards.has_cards else 0.0
        return await self._grant_learned(pinned(asked, self._host, self._neighbours), call, wait_s)

    async def _grant_learned(self, asked: AdmitLease, call: Teller, wait_s: float) -> LeaseGranted:
        """The lease, planned with what is known of its model."""
        planned = self.learning.planned(asked)
        granted = await self._grant(planned, call, wait_s)
        self.learning.granted(planned)
        return granted

    def _renew(self, asked: leases.RenewLease, _call: Call) -> leases.LeaseRenewed:
        at = self._shell.clock.timestamp()
        decision = self._writer.table.renew(asked, self._now(), at)
        if any(isinstance(fact, Ended | GivenBack) for fact in decision.facts):
            self._writer.make_sound()
            decision = self._writer.table.renew(asked, self._now(), at)
        reply = self._record(decision)
        assert isinstance(reply, leases.LeaseRenewed)
        return reply

    def _release(self, asked: leases.ReleaseLease, _call: Call) -> Empty:
        self._writer.make_sound()
        self._record(self._writer.table.release(asked, self._now(), self._shell.clock.timestamp()))
        return Empty()

    async def _grant(
        self, asked: AdmitLease, call: Teller, wait_s: float, asked_at: float | None = None
    ) -> LeaseGranted:
        """The lease; one that does not fit now waits in the line, since `asked_at`, or is refused where there is no time to."""
        if asked.cards:
            await self._cards.settled(asked, SETTLE_S)
        if self._closed:
            raise self._closing()
        self._writer.make_sound()
        now = self._now()
        decision = self._decision(asked, now)
        if not isinstance(decision.reply, NoCapacity):
            return _granted(self._record(decision))
        if wait_s > 0 and asked.cards:  # who needs no card is in nobody's way there, and asks again
            return await self._wait(asked, call, now if asked_at is None else asked_at, now + wait_s)
        decision.reply.details["position"] = self._line.position(asked, now)
        return _granted(self._record(decision))

    def _decision(self, asked: AdmitLease, asked_at: float) -> Decision:
        now = self._now()
        if asked.ram_bytes:
            self._writer.see_ram()
        kept = self._line.kept_from(asked.priority, asked_at)
        if self._writer.settling:
            kept |= self._writer.settling.unsure(self._writer.table.candidates(now, asked.lease_id), asked.bytes)
        return self._writer.table.admit(asked, now, self._shell.clock.timestamp(), kept)

    def _record(self, decision: Decision) -> object:
        if any(isinstance(fact, Ended) for fact in decision.facts):
            self._cards.look_soon()  # which serves the line: those who wait go before whoever comes later
        return self._writer.record(decision)

    async def _wait(self, asked: AdmitLease, call: Teller, asked_at: float, deadline: float) -> LeaseGranted:
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
            if owner is not None:
                self._writer.owners.drop(owner, asked.lease_id)
            self._forget_way(seat)

    def _forget_way(self, seat: Seat) -> None:
        try:
            self._writer.make_sound()
        except StorageUnavailable:
            return  # it is kept for a while, and then no more
        self._evictions.forget_way(seat)

    def _choice(self, seat: Seat) -> Choice:
        now, table = self._now(), self._writer.table
        kept = self._line.kept_from(seat.asked.priority, seat.waiter.asked_at)
        return placement.choose(seat.waiter.wish, table.candidates(now), kept, missing=table.missing())

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
        self._serve_soon()

    def _left(self, seat: Seat, why: str) -> None:
        """The caller is gone or was sent away: its place is free for others."""
        if seat.outcome.done() and not seat.outcome.cancelled():
            seat.outcome.exception()  # whoever could hear it has heard it
        if seat in self._line:
            self._note(seat, "withdrawn", self._choice(seat), why)
            self._line.leave(seat)
            self._serve_soon()

    def _give_back(self, granted: LeaseGranted) -> None:
        """Ends a lease that was granted while its caller left, who so cannot have heard of it."""
        held = leases.ReleaseLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
        try:
            self._writer.make_sound()
            self._record(self._writer.table.release(held, self._now(), self._shell.clock.timestamp()))
        except TandemError as error:
            self._shell.log.warning("lease %s, whose caller left, was not given back: %s", granted.lease_id, error)

    def _serve_soon(self) -> None:
        """Tries the line once in the next turn, however many reasons this one has."""
        if len(self._line) and not self._serving_soon:
            self._serving_soon = True
            self._shell.loop.call_soon(self._serve)

    def _serve(self) -> None:
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
        for seat in self._line.startable(sure, now, self._evictions.rooms()):
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
        decision = self._decision(seat.asked, seat.waiter.asked_at)
        if isinstance(decision.reply, NoCapacity):
            return
        self._line.leave(seat)
        try:
            granted = _granted(self._record(decision))
        except TandemError as error:
            seat.end(error)
            return
        seat.granted = granted
        self._shell.journal.hold(lambda failure: seat.end(failure or granted))

    def _tell_line(self) -> None:
        now, table = self._now(), self._writer.table
        self._line.tell(table.candidates(now), table.missing(), now)

    def _owner_died(self, owner: ProcessId) -> None:
        """Ends what hangs on the process; what could not be committed, or is being evicted, is tried again at the next tick."""
        for seat in self._line:
            if process_of(seat.asked, self._host) == owner:
                seat.end(Cancelled(f"process {owner.pid}, for which this lease was asked, has ended"))
        if self._evictions.concerns(owner):
            return
        try:
            self._writer.make_sound()
        except StorageUnavailable:
            return
        at = self._shell.clock.timestamp()
        self._record(self._writer.table.owner_died(owner.pid, owner.start_time, self._now(), at))

    def _tick(self) -> None:
        if self._closed:
            return
        self._writer.owners.check()
        try:
            self._writer.make_sound()
        except StorageUnavailable:
            pass  # the health answer says so; leases that are late end when it has passed
        else:
            self._record(self._writer.table.expire(self._now(), self._shell.clock.timestamp()))
            self._evictions.resume()
            self.learning.keep()
        self._serve()
        self._cards.tick()


def _granted(reply: object) -> LeaseGranted:
    assert isinstance(reply, LeaseGranted)
    return reply
