"""Idle leases had go for a model that waits for its host's RAM, disk or cores, and what those who wait are told of that.

Who goes is host_room.py's to say: engines are stopped, agents' leases evicted by the ladder. For a model that needs a card too
it is all or nothing: nobody goes before the card is to be had as well, and no lease leaves the card for it (common/vram) before
the host has room. What they give back is kept for the model until its lease is granted, or nobody wants it any more. So nobody
goes in vain.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from common.errors import TandemError
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.leasing.serving import DRAIN_AFTER_S
from common.supervisor.models.host_room import lacking, who_goes
from common.supervisor.models.managed import Managed
from common.supervisor.models.roster import Roster
from common.supervisor.models.running import Engines
from common.vram.lease_beside import Beside


class MakingWay:
    """One host's."""

    def __init__(self, roster: Roster, engines: Engines, line: OwnLine) -> None:
        self._roster = roster
        self._engines = engines
        self._line = line
        self._kept: dict[str, str] = {}

    def look(self, now: float) -> None:
        """Has those go who are to go by now, and takes down what each load lacks of its host."""
        for managed in self._roster:
            name = managed.model.name
            if managed.lacks_host:
                self._kept[name] = lease_id = self._engines.leases.next_id(name)
                self._have_go(managed, managed.urgency, lease_id)
            elif name in self._kept and not managed.asked_for:
                with suppress(TandemError):  # the store takes nothing now; the next turn tries again
                    self._line.forget_room(self._kept[name])
                    del self._kept[name]
            self._roster.short_of_host(name, self._short(managed, now))

    def _short(self, managed: Managed, now: float) -> str:
        """What a load that waits for its lease on a card lacks of the host, and what becomes of that; empty: nothing."""
        asked = self._engines.leases.waited_for(managed.model.name)
        if asked is None or not managed.model.vram or not managed.asked_for:
            return ""
        short = self._line.short_of_host(asked)
        if not short:
            return ""
        since = min(each.asked_at for each in managed.waiting.values())
        leaving = self._line.would_leave(asked, draining=now - since >= DRAIN_AFTER_S)
        if leaving is None:
            return f"{short}; nobody goes for that while no card can be had for {managed.model.name}"
        own = managed.held.lease_id if managed.held is not None else ""
        self._have_go(managed, asked.priority, asked.lease_id, own, leaving)
        if self._lacks(managed, asked.priority, asked.lease_id, own):
            return f"{short}; nobody idle who may go for it holds enough of that"
        return f"{short}; who is idle goes for it"

    def _lacks(self, managed: Managed, priority: int, lease_id: str, own: str) -> bool:
        """Whether the host will have too little for it when all has gone that has to go."""
        spare = self._line.host_spare(lease_id)
        return spare is None or lacking(managed.model.needs, spare, self._line.beside_cards(priority), own).short

    def _have_go(
        self, managed: Managed, priority: int, lease_id: str, own: str = "", leaving: Collection[str] = ()
    ) -> None:
        """Has idle leases go that hold what the model lacks, where that is enough, and keeps that for its lease."""
        line, leases, needs = self._line, self._line.beside_cards(priority), managed.model.needs
        spare = line.host_spare(lease_id)
        if spare is None:
            return  # nobody goes on a host that could not be measured
        going = who_goes(needs, spare, leases, priority, line.horizon.seconds, own, leaving)
        if not going and self._lacks(managed, priority, lease_id, own):
            return
        with suppress(TandemError):  # the store takes nothing now; the next turn tries again
            line.keep_of_host(Beside(int(needs.ram), int(needs.disk), needs.cpus), lease_id, managed.model.name, own)
            for lease in going:
                victim, why = self._roster.of_lease(lease.lease_id), f"makes room for {managed.model.name}"
                if victim is not None:
                    self._engines.put_away(victim, why, to_stop=True)
                else:
                    line.evict([lease.lease_id], why, for_good=True)
