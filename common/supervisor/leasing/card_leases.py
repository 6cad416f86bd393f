"""The VRAM leases on one host's own cards: serves the lease verbs, and notices whoever dies, leaves or is late.

The pure rules decide (common/vram), the writer makes their decisions durable, and looks at the cards come in from aside. This
shell brings them together. It asks no other host, so it grants, renews and ends leases as well when it is alone.

A request with `wait_s` waits that long, at most as long as its caller does (serving.py). One that would need bytes of a lease
that just ended waits at most SETTLE_S for the look that shows them free.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import msgspec

from common.api import leases, supervisor
from common.api.leases import AcquireLease, LeaseGranted
from common.api.supervisor import AdmitLease
from common.api.words import Empty
from common.errors import NoCapacity, StorageUnavailable, Unavailable
from common.gpu.cards import CardSource
from common.ids import new_id
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.leasing.card_watch import CardWatch
from common.supervisor.leasing.evictions import Evictions
from common.supervisor.leasing.files import HostFiles
from common.supervisor.leasing.footprints import Learning
from common.supervisor.leasing.own_line import OwnLine, Teller
from common.supervisor.leasing.owners import pinned
from common.supervisor.leasing.rung_acts import FindUnloader, nobody
from common.supervisor.leasing.sampling import HERE, Look
from common.supervisor.leasing.serving import Serving, granted_of
from common.supervisor.leasing.strangers import Strangers
from common.supervisor.leasing.views import LeaseViews
from common.supervisor.leasing.waiting import Line
from common.supervisor.leasing.writer import LeaseWriter
from common.vram.cards import ProcessId
from common.vram.footprint import Footprints
from common.vram.lease_decision import Decision, EvictionOrder
from common.vram.lease_facts import Ended, GivenBack
from common.vram.rungs import DEFAULT, LadderPolicy

TICK_S: Final = 0.25
SETTLE_S: Final = 0.5
"""How long a request may wait for the look that shows a lease's bytes gone."""


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
        self._files = HostFiles()
        self._own_footprints = footprints is None
        self._writer = LeaseWriter(shell, host, self._owner_died, self._evict, footprints)
        self.learning = Learning(shell, host, self._writer, self._writer.footprints)
        self._cards = CardWatch(shell, host, cards, problem, self._writer, self._line, self._seen, home)
        self._evictions = Evictions(
            shell,
            self._writer,
            self._record,
            self._cards.look_closely,
            self._serve_soon,
            unloader,
            policy,
            self.learning,
        )
        self._serving = Serving(
            shell, host, self._writer, self._line, self._evictions, self._record, self._cards.in_doubt
        )
        self.strangers = Strangers(shell, self._writer, self._cards.look_soon)
        self.own = OwnLine(shell, host, self._writer, self._grant, self._record)
        self._closed = False

    def add_routes(self) -> None:
        """Serves the lease verbs and admit_lease on the shell."""
        self._shell.handle(leases.ACQUIRE_LEASE, self._acquire)
        self._shell.handle(supervisor.ADMIT_LEASE, self._admit)
        self._shell.handle(leases.RENEW_LEASE, self._renew)
        self._shell.handle(leases.RELEASE_LEASE, self._release)
        LeaseViews(self._shell, self._host, self._writer, self._line, self.learning, self._files).add_routes()
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
        self._serving.close(self._closing())
        await self._evictions.close()
        self._writer.close()
        await self._cards.close()

    def _evict(self, order: EvictionOrder) -> None:
        self._evictions.begin(order)

    def _serve_soon(self) -> None:
        self._serving.serve_soon()

    def _seen(self, look: Look) -> None:
        self._evictions.looked(look)
        self.strangers.looked(look)
        self.learning.looked()
        self._correct()
        self._serving.serve()

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
        """The lease, planned with what is known of its model, where its files are here."""
        planned = self.learning.planned(asked)
        missing = await self._files.lacking(asked.files)
        granted = self._refuse_for(missing, planned) if missing else await self._grant(planned, call, wait_s)
        self.learning.granted(planned)
        return granted

    def _refuse_for(self, missing: Sequence[str], asked: AdmitLease) -> LeaseGranted:
        """Raises NotFound for want of the files; what was granted before, or is loaded by another, is had all the same."""
        if self._closed:
            raise self._closing()
        self._writer.make_sound()
        at = self._shell.clock.timestamp()
        return granted_of(self._record(self._writer.table.admit(asked, self._now(), at, missing_files=missing)))

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
        arrived_at = self._now()
        if asked.cards:
            await self._cards.settled(asked, SETTLE_S)
        if self._closed:
            raise self._closing()
        self._writer.make_sound()
        now = self._now()
        decision = self._serving.decision(asked, arrived_at)
        if not isinstance(decision.reply, NoCapacity):
            return granted_of(self._record(decision))
        if wait_s > 0 and asked.cards:  # who needs no card is in nobody's way there, and asks again
            return await self._serving.wait(asked, call, arrived_at if asked_at is None else asked_at, now + wait_s)
        decision.reply.details["position"] = self._line.position(asked, now)
        return granted_of(self._record(decision))

    def _record(self, decision: Decision) -> object:
        if any(isinstance(fact, Ended) for fact in decision.facts):
            self._cards.look_soon()  # which serves the line: those who wait go before whoever comes later
        return self._writer.record(decision)

    def _owner_died(self, owner: ProcessId) -> None:
        """Ends what hangs on the process; what could not be committed, or is being evicted, is tried again at the next tick."""
        self._serving.owner_died(owner)
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
        self._serving.serve()
        self._cards.tick()
