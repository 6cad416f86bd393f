"""Owners of leases that are processes of the startup file: their memory comes back by an orderly restart.

An agent is stopped as its entry says and started anew at once, so that it is there again for its next call, and asks for its
lease like anyone. A service of the fabric is never ended for the sake of a lease. It neither probes nor signals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from common.api.decisions import RungName
from common.gpu import process_identity
from common.supervisor.desk import Standing
from common.supervisor.leasing.rung_acts import Claimed
from common.vram.cards import ProcessId
from common.vram.lease_decision import EvictionOrder

LOOK_S: Final = 0.05


class FileOwners:
    """Finds them; `standings` are the host's processes as they stand, `restart` begins one's restart."""

    def __init__(self, standings: Callable[[], Iterable[Standing]], restart: Callable[[str], object]) -> None:
        self._standings = standings
        self._restart = restart

    def find(self, order: EvictionOrder) -> Restarted | None:
        """The process of the startup file that the order's owner is, or in whose family it is; None where there is none."""
        if order.owner is None:
            return None
        lineage = process_identity.lineage(order.owner.pid)
        for standing in self._standings():
            launched = standing.launched
            if launched is not None and ProcessId(launched.pid, launched.start_time) in lineage:
                spared = f"{standing.entry.name} is a service of the fabric" if standing.entry.kind == "service" else ""
                return Restarted(standing.entry.name, order.owner, self._restart, spared)
        return None


class Restarted:
    """One of them, as whoever knows how to stop it (rung_acts.Unloader)."""

    rungs: tuple[RungName, ...] = ("stop",)

    def __init__(self, name: str, owner: ProcessId, restart: Callable[[str], object], spared: str) -> None:
        self.spared = spared
        self._name = name
        self._owner = owner
        self._restart = restart

    async def perform(self, rung: RungName) -> Claimed:
        """Has it restarted, and waits until the owner has ended."""
        self._restart(self._name)
        while process_identity.is_alive(*self._owner):
            await asyncio.sleep(LOOK_S)
        return Claimed(True, f"{self._name} was stopped, and starts anew")
