"""The leases of a host's engines: asked for with what is known of their models, waited for, taken up again, and given back.

It starts no engine and decides nothing of who gets a lease: that is the ledger's, where an engine waits as anybody does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from common.api.leases import Lease, LeaseGranted, LeaseProgress, Owner
from common.api.supervisor import AdmitLease
from common.errors import NoCapacity, TandemError
from common.gpu.process_identity import this_process
from common.ids import new_id
from common.service.shell import Shell
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.models.engine_lease import lease_request
from common.supervisor.models.instructions import Begin
from common.supervisor.models.loads import Loads
from common.supervisor.models.managed import Managed
from common.supervisor.models.roster import Roster
from common.vram.cards import ProcessId
from common.vram.footprint import Footprints

LONGEST_WAIT_S: Final = 600.0
"""How long a load waits for its lease at a time; who wants the model longer has it asked for again."""
IDENTITY: Final = "supervisor@{}"


class Hears:
    """Takes in how the wait for a load's lease goes."""

    def __init__(self, hears: Callable[[str], None]) -> None:
        self._hears = hears

    def part(self, value: object) -> None:
        """One piece of news."""
        if isinstance(value, LeaseProgress):
            self._hears(value.reason)


class EngineLeases:
    """One host's; `loads` knows whose process an engine's lease hangs on."""

    def __init__(
        self, shell: Shell, host: str, roster: Roster, footprints: Footprints, line: OwnLine, loads: Loads
    ) -> None:
        self._rng = shell.rng
        self._now = shell.clock.monotonic
        self._identity = IDENTITY.format(host)
        self._roster = roster
        self._footprints = footprints
        self._line = line
        self._loads = loads
        self._waited_for: dict[str, AdmitLease] = {}
        self._next_ids: dict[str, str] = {}

    def live(self) -> list[Lease]:
        """Those there are, in the order of their grants."""
        return [each for each in self._line.leases() if each.identity == self._identity and not each.shares]

    def waited_for(self, name: str) -> AdmitLease | None:
        """The lease for which the model's load waits; None where none does."""
        return self._waited_for.get(name)

    def next_id(self, name: str) -> str:
        """The id under which the model's next load asks for its lease, the same until that is granted or ended by an error."""
        return self._next_ids.setdefault(name, new_id("lease", self._rng))

    async def for_load(self, managed: Managed, begin: Begin) -> tuple[LeaseGranted, ProcessId]:
        """The lease, hanging on this supervisor until the engine's process is known."""
        model, now = managed.model, self._now()
        if model.adopted:
            process = await self._loads.owner_of(model)
        elif begin.wake and managed.serving is not None:
            process = ProcessId(managed.serving.pid, managed.serving.start_time)
        else:
            process = this_process()
        need = managed.need_bytes(self._footprints)
        asked = self._request(managed, self._loads.owner(model, process), need, begin.card_uuid)
        self._footprints.declared(managed.key, int(model.vram))
        waiting = list(managed.waiting.values())
        asked_at = min((each.asked_at for each in waiting), default=now)
        wait_s = 0.0 if all(each.preload for each in waiting) else min(LONGEST_WAIT_S, max(0.0, begin.deadline - now))
        hears = Hears(lambda reason: self._roster.hears(model.name, reason))
        self._waited_for[model.name] = asked
        try:
            granted = await self._line.acquire(asked, wait_s, hears, asked_at)
        except NoCapacity:
            self._next_ids[model.name] = asked.lease_id  # what is kept under it meanwhile is its next load's
            raise
        finally:
            self._waited_for.pop(model.name, None)
        return granted, process

    async def for_found(self, managed: Managed, owner: ProcessId, missing_bytes: int, card_uuid: str) -> LeaseGranted:
        """The lease of an engine that has its model loaded already, for what is not on the card yet; it waits for nothing."""
        asked = self._request(managed, self._loads.owner(managed.model, owner), missing_bytes, card_uuid)
        return await self._line.acquire(asked, 0.0, Hears(lambda _: None), self._now())

    def give_back(self, lease_id: str) -> None:
        """Ends the lease, in use or not."""
        with suppress(TandemError):  # it has ended with its process
            self._line.let_go(lease_id)
            self._line.release(lease_id)

    def _request(self, managed: Managed, owner: Owner, need_bytes: int, card_uuid: str) -> AdmitLease:
        lease_id, seconds = self.next_id(managed.model.name), managed.seconds(self._footprints)[0]
        del self._next_ids[managed.model.name]
        priority = managed.begun.priority if managed.begun is not None else managed.model.priority
        return lease_request(managed.model, lease_id, self._identity, owner, need_bytes, card_uuid, seconds, priority)
