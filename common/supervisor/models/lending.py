"""Uses of one host's models: whoever asks gets a share of the engine's lease, at once or after a wait that it is told of.

Who is served when stands in roster.py; what is lent is a lease like any other, and is given back like one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable

from common.api.leases import LeaseGranted
from common.api.models import ModelReady, UseModel
from common.api.supervisor import AdmitLease
from common.errors import NoCapacity, StaleFence, TandemError
from common.ids import new_id
from common.service.call import Call
from common.service.shell import Shell
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.leasing.owners import pinned
from common.supervisor.models.instructions import Refuse
from common.supervisor.models.managed import Asked, Managed
from common.supervisor.models.roster import Roster
from common.supervisor.models.seats import Seat, Seats
from common.vram.footprint import Footprints


class Lending:
    """`turn` has the roster looked at now, `soon` in the next turn of the loop. `neighbours` as for leases."""

    def __init__(
        self,
        shell: Shell,
        host: str,
        neighbours: Collection[str],
        roster: Roster,
        footprints: Footprints,
        line: OwnLine,
        turn: Callable[[], None],
        soon: Callable[[], None],
    ) -> None:
        self._shell = shell
        self._host = host
        self._neighbours = neighbours
        self._roster = roster
        self._footprints = footprints
        self._line = line
        self._turn = turn
        self._soon = soon
        self._now = shell.clock.monotonic
        self._seats = Seats()

    async def use(self, asked: UseModel, call: Call, look_for: Callable[[Managed], Awaitable[None]]) -> ModelReady:
        """The model, ready, under a share of its own; raises as the roster refuses, and NoCapacity when its time is up.

        `look_for` looks whether what a model lacks is there by now.
        """
        await look_for(self._roster.find(asked.model))
        managed = self._roster.find(asked.model)
        self._fits(managed)
        now = self._now()
        wait_s = call.patience_s(now, asked.wait_s)
        ticket = new_id("req", self._shell.rng)
        seat = Seat(self._share_of(managed, asked, call), call)
        wanted = Asked(
            ticket=ticket, model=managed.model.name, priority=asked.priority, asked_at=now, deadline=now + wait_s
        )
        self._roster.ask(wanted, asked.capability, now)
        self._seats.sit(ticket, seat)
        late = self._shell.loop.call_later(wait_s, self._soon)
        try:
            self._turn()
            granted = await seat.outcome
        except asyncio.CancelledError:
            self._left(seat)
            raise
        finally:
            late.cancel()
            self._seats.leave(ticket)
            self._roster.leave(ticket)
            self._soon()
        return self._ready(managed, seat, granted, now)

    def serve(self, asked: Asked) -> None:
        """Gives a caller its share; one whose lease had to go at this moment waits on."""
        managed, seat = self._roster.find(asked.model), self._seats.get(asked.ticket)
        if seat is None or seat.outcome.done() or managed.held is None:
            return  # a preload, or a caller that is leaving: nobody would give its share back
        try:
            granted = self._line.share(managed.held.lease_id, seat.asked)
        except StaleFence:
            self._roster.unserved(asked, self._now())
        except TandemError as error:
            seat.end(error)
        else:
            self._roster.used(managed.model.name, granted.lease_id)
            seat.end(granted)

    def refuse(self, refused: Iterable[Refuse]) -> None:
        """Tells callers why they get none."""
        for each in refused:
            seat = self._seats.get(each.asked.ticket)
            if seat is not None:
                seat.end(each.error)

    def tell(self, now: float) -> None:
        """Tells everyone who waits how it goes."""
        self._seats.tell(lambda ticket: self._roster.progress(ticket, now), now)

    def close(self, why: TandemError) -> None:
        """Sends the waiting away."""
        for seat in self._seats:
            seat.end(why)

    def _ready(self, managed: Managed, seat: Seat, granted: LeaseGranted, asked_at: float) -> ModelReady:
        serving = managed.serving
        if serving is None:
            raise StaleFence(f"{managed.model.name} was put away at this moment", retry_after_ms=100)
        return ModelReady(
            model=managed.model.name,
            host=self._host,
            url=serving.url,
            upstream=serving.upstream,
            engine=managed.model.engine,
            lease=granted,
            waited_s=self._now() - asked_at,
            loaded=seat.waited,
            of_host=managed.of_host,
        )

    def _share_of(self, managed: Managed, asked: UseModel, call: Call) -> AdmitLease:
        request = AdmitLease(
            lease_id=new_id("lease", self._shell.rng),
            identity=call.identity,
            model=managed.model.name,
            config=managed.model.config,
            bytes=0,
            share=True,
            priority=asked.priority,
            ttl_s=asked.ttl_s,
            owner=asked.owner,
            idempotency_key=asked.idempotency_key,
        )
        return pinned(request, self._host, self._neighbours)

    def _fits(self, managed: Managed) -> None:
        """NoCapacity where no card of this host could ever hold the model; one that takes no VRAM needs none."""
        if managed.held is not None or not managed.model.vram:
            return
        wish, cards = managed.wish(self._footprints), self._line.candidates()
        if not cards:
            raise NoCapacity(f"{managed.model.name} needs {wish.need} of a card, and {self._host} has none")
        if sum(wish.could_hold(card) for card in cards) < wish.cards:
            most = max((card.capacity_bytes for card in cards), default=0) / 2**30
            raise NoCapacity(
                f"{managed.model.name} needs {wish.need}; a card of {self._host} holds {most:.1f} GiB at most"
            )

    def _left(self, seat: Seat) -> None:
        """A caller left as it was being served: what it cannot have heard of is given back."""
        if seat.outcome.done() and not seat.outcome.cancelled() and not seat.outcome.exception():
            try:
                self._line.release(seat.outcome.result().lease_id)
            except TandemError as error:
                self._shell.log.info("a share whose caller left was not given back: %s", error.message)
