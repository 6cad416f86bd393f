"""The supervisor's own way to its host's leases, for the engines that it runs: the same line, the same table, no wire between.

It asks as any caller asks and is decided about by the same rules. What it does beside is what only the host may do: give a
share of one certain lease, bind a lease to a process that was started after its grant, and have leases go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from common.api.decisions import Explain
from common.api.gpus import Card
from common.api.leases import Lease, LeaseChanged, LeaseGranted, MarkLease, Owner, ReleaseLease
from common.api.supervisor import AdmitLease, RoomPromised
from common.errors import NoCapacity, NotFound, StaleFence, TandemError
from common.service.shell import Shell
from common.supervisor.leasing.writer import LeaseWriter
from common.vram.demand import Demand, Horizon
from common.vram.lease_beside import Wanted
from common.vram.lease_decision import Decision
from common.vram.lease_room import PATIENCE_S
from common.vram.placement import Candidate
from common.vram.resources import Spare


class Teller(Protocol):
    """Who hears how a wait goes; raises Cancelled when it is gone."""

    def part(self, value: object) -> None:
        """A piece of the answer before it."""
        ...


Grant = Callable[[AdmitLease, Teller, float, float], Awaitable[LeaseGranted]]


class OwnLine:
    """`grant` waits in the host's line (request, who hears of it, seconds to wait, since when), `record` writes decisions."""

    def __init__(
        self, shell: Shell, host: str, writer: LeaseWriter, grant: Grant, record: Callable[[Decision], object]
    ) -> None:
        self._shell = shell
        self._host = host
        self._writer = writer
        self._grant = grant
        self._record = record
        self._now = shell.clock.monotonic

    def listen(self, heard: Callable[[LeaseChanged], None]) -> None:
        """`heard` is told of every change of a lease, once it is committed."""
        self._writer.listeners.append(heard)

    async def acquire(self, asked: AdmitLease, wait_s: float, teller: Teller, asked_at: float) -> LeaseGranted:
        """The lease, as `acquire_lease` grants it, with others going for it where it waits; its errors are the same.

        `asked_at` is when whoever it is for asked, which counts as the beginning of the wait.
        """
        return await self._grant(asked, teller, wait_s, asked_at)

    def share(self, parent_id: str, asked: AdmitLease) -> LeaseGranted:
        """A share of this very lease; StaleFence where it is to be had no more."""
        self._writer.make_sound()
        decision = self._writer.table.admit(asked, self._now(), self._shell.clock.timestamp())
        if isinstance(decision.reply, TandemError) and not isinstance(decision.reply, NoCapacity):
            raise decision.reply
        if not isinstance(decision.reply, LeaseGranted) or decision.reply.shares != parent_id:
            raise StaleFence(f"lease {parent_id} takes no further use", lease_id=parent_id)
        granted = self._record(decision)
        assert isinstance(granted, LeaseGranted)
        return granted

    def rebind(self, lease_id: str, owner: Owner) -> None:
        """The lease hangs on this process from now on; StaleFence where it has to go already."""
        self._writer.make_sound()
        self._record(self._writer.table.rebind(lease_id, owner, self._now(), self._shell.clock.timestamp()))

    def mark(
        self, lease_id: str, *, in_use: bool | None = None, loaded: bool | None = None, cgroup: str | None = None
    ) -> None:
        """Says of a lease whether it is in use, whether its model is loaded, and in which cgroup its owner's container runs."""
        self._writer.make_sound()
        asked = MarkLease(
            lease_id=lease_id,
            fencing_token=self.find(lease_id).fencing_token,
            in_use=in_use,
            loaded=loaded,
            cgroup=cgroup,
        )
        self._record(self._writer.table.mark(asked, self._now(), self._shell.clock.timestamp()))

    def let_go(self, lease_id: str) -> None:
        """The lease is not in use by its owner any more; no matter if it has ended, or others share it."""
        with suppress(NotFound, StaleFence):
            self.mark(lease_id, in_use=False)

    def release(self, lease_id: str) -> None:
        """Gives the lease back, whatever its token is by now; one that others share goes on until the last of them has ended."""
        self._writer.make_sound()
        asked = ReleaseLease(lease_id=lease_id, fencing_token=self.find(lease_id).fencing_token)
        self._record(self._writer.table.release(asked, self._now(), self._shell.clock.timestamp()))

    def evict(self, lease_ids: Sequence[str], reason: str, *, for_good: bool = False) -> None:
        """Has these leases go, those in use when their use ends; `for_good`: not to sleep in host RAM."""
        self._writer.make_sound()
        self._writer.see_ram()
        at = self._shell.clock.timestamp()
        self._record(self._writer.table.evict(lease_ids, reason, self._now(), at, for_good=for_good))

    def short_of_host(self, asked: AdmitLease) -> str:
        """Why the host's RAM, disk or cores do not do for the request at this moment; empty: they do."""
        if asked.ram_bytes:
            self._writer.see_ram()
        return self._writer.table.short_of_host(asked)

    def would_leave(self, asked: AdmitLease, *, draining: bool) -> frozenset[str] | None:
        """The leases that would leave cards for the request, were the host's RAM, disk and cores no matter.

        None where it would not be granted then either; nothing is changed. `draining`: those in use may be in question too.
        """
        alone = msgspec.structs.replace(asked, ram_bytes=0, disk_bytes=0, cpu_cores=0.0)
        table, now, at = self._writer.table, self._now(), self._shell.clock.timestamp()
        if isinstance(table.admit(alone, now, at).reply, LeaseGranted):
            return frozenset()
        promised = table.evict_for(alone, now, at, draining=draining).reply
        if not isinstance(promised, RoomPromised):
            return None
        return frozenset(each.lease_id for each in promised.victims if each.chosen)

    def find(self, lease_id: str) -> Lease:
        """The live lease of that id; NotFound."""
        found = next((each for each in self.leases() if each.lease_id == lease_id), None)
        if found is None:
            raise NotFound(f"{self._host} knows no lease {lease_id}", lease_id=lease_id)
        return found

    def returned_bytes(self, lease_id: str) -> int:
        """What the card showed to come back when this lease was evicted or put to sleep last; 0 where it was not."""
        told = self._writer.receipts.explain(Explain(subject=lease_id)).receipts
        return next((each.returned_bytes for each in told if each.decision in ("evicted", "parked")), 0)

    def beside_cards(self, priority: int) -> list[Lease]:
        """The leases but shares, as they are weighed for what is wanted of the host beside its cards."""
        return self._writer.table.beside_cards(priority, self._now())

    def leases(self) -> list[Lease]:
        """The live leases."""
        return self._writer.table.leases(self._now())

    def cards(self) -> list[Card]:
        """The cards as lists show them."""
        return self._writer.table.cards(self._now())

    def candidates(self) -> list[Candidate]:
        """The cards as placement sees them."""
        return self._writer.table.candidates(self._now())

    def host_spare(self, lease_id: str) -> Spare | None:
        """What the request could have of the host beside its cards, its RAM as it is at this moment: what ended counts at once.

        Below zero by what others have or were promised beyond it; None where the host could not be measured.
        """
        self._writer.see_ram()
        return self._writer.table.resources.spare(lease_id)

    def keep_of_host(self, wanted: Wanted, lease_id: str, model: str, own: str = "") -> None:
        """Keeps of the host's RAM, disk and cores what others go for, for a while; `own` is the lease that the request wakes."""
        self._writer.make_sound()
        self._record(self._writer.table.keep_of_host(wanted, lease_id, model, self._now() + PATIENCE_S, own))

    def forget_room(self, lease_id: str) -> None:
        """Keeps nothing for the request any more; what goes for it goes all the same."""
        self._writer.make_sound()
        self._record(self._writer.table.forget_room(lease_id))

    @property
    def demand(self) -> Demand:
        """How often each model is used."""
        return self._writer.table.demand

    @property
    def horizon(self) -> Horizon:
        """How far ahead evictions look."""
        return self._writer.table.horizon
