"""A model stopped at its operator's word: who waits is sent away, its uses end, its engine goes, and the card is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from common.api.models import ModelStopped
from common.clock import Clock
from common.errors import Cancelled, Conflict
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.models.instructions import Refuse
from common.supervisor.models.managed import Held, Managed
from common.supervisor.models.roster import Roster
from common.supervisor.models.running import Engines

LOOK_S: Final = 0.02
STOP_S: Final = 60.0
"""How long a stop is waited for; it goes on after that."""


class Stopping:
    """One host's; `refuse` tells callers why they get nothing."""

    def __init__(
        self, clock: Clock, roster: Roster, engines: Engines, line: OwnLine, refuse: Callable[[Iterable[Refuse]], None]
    ) -> None:
        self._now = clock.monotonic
        self._roster = roster
        self._engines = engines
        self._line = line
        self._refuse = refuse

    async def stop(self, managed: Managed) -> ModelStopped:
        """What the model came to, within STOP_S; Conflict where nothing can be done to have it go."""
        for waiting in list(managed.waiting.values()):
            self._roster.leave(waiting.ticket)
            self._refuse([Refuse(waiting, Cancelled(f"{managed.model.name} was stopped"))])
        held = managed.held
        if held is None:
            return ModelStopped(state=managed.life.state, returned_bytes=0)
        if managed.model.adopted and (why := self._unstoppable(managed)):
            raise Conflict(why)
        self._put_away(managed, held)
        until = self._now() + STOP_S
        while (there := self._roster.of_lease(held.lease_id) is managed) and self._now() < until:
            await asyncio.sleep(LOOK_S)
        returned_bytes = 0 if there else self._line.returned_bytes(held.lease_id)
        return ModelStopped(state=managed.life.state, returned_bytes=returned_bytes)

    def _unstoppable(self, managed: Managed) -> str:
        """Why nothing can be done to have it go; empty where something can."""
        unloader = self._engines.unloader_of(managed)
        spared = unloader.spared if unloader is not None and not unloader.rungs else ""
        return f"{managed.model.name} cannot be put away: {spared}" if spared else ""

    def _put_away(self, managed: Managed, held: Held) -> None:
        """Has it go at once, its users' shares first."""
        self._engines.put_away(managed, "stopped by its operator", to_stop=True)
        for lease in self._line.leases():
            if lease.shares == held.lease_id:
                self._line.release(lease.lease_id)
        self._line.let_go(held.lease_id)
