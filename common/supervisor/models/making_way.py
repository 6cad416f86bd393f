"""Idle engines put away for a model that waits for its host's RAM, disk or cores, and what those who wait are told of that.

Who goes is host_room.py's to say. For a model that needs a card too it is all or nothing: nobody goes before the card is to be
had as well, and no lease leaves the card for it (common/vram) before the host has room. So nobody goes in vain.
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


class MakingWay:
    """One host's."""

    def __init__(self, roster: Roster, engines: Engines, line: OwnLine) -> None:
        self._roster = roster
        self._engines = engines
        self._line = line

    def look(self, now: float) -> None:
        """Has those go who are to go by now, and takes down what each load lacks of its host."""
        for managed in self._roster:
            if managed.lacks_host:
                self._have_go(managed, managed.urgency)
            self._roster.short_of_host(managed.model.name, self._short(managed, now))

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
        self._have_go(managed, asked.priority, own, leaving)
        if lacking(managed.model.needs, self._line.host_memory(), self._engines.leases.live(), own).short:
            return f"{short}; no idle engine that may go for it holds enough of that"
        return f"{short}; idle engines go for it"

    def _have_go(self, managed: Managed, priority: int, own: str = "", leaving: Collection[str] = ()) -> None:
        """Puts idle engines away that hold what the model lacks, where that is enough."""
        line, leases = self._line, self._engines.leases.live()
        horizon_s = line.horizon.seconds
        for lease in who_goes(managed.model.needs, line.host_memory(), leases, priority, horizon_s, own, leaving):
            victim = self._roster.of_lease(lease.lease_id)
            if victim is not None:
                with suppress(TandemError):  # the store takes nothing now; the next turn tries again
                    self._engines.put_away(victim, f"makes room for {managed.model.name}", to_stop=True)
