"""The one writer of a host's lease table: decisions become facts, facts become rows, and only a commit makes them true.

    decide (pure) -> apply the facts -> journal their rows -> commit -> publish, watch, note, reply

A fence epoch is opened with a FULL commit before anything is granted: at start, and after a commit that failed, when the table is
restored from the store. While the store takes nothing, nothing is decided, and what was acknowledged stays listed. It decides
nothing about leases itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from common.api import leases
from common.api.decisions import Receipt
from common.api.leases import LeaseChanged
from common.errors import StorageUnavailable, TandemError
from common.service.shell import Shell
from common.store.protocol import Durability
from common.supervisor.leasing.host_look import HostLook, ram_available_bytes
from common.supervisor.leasing.owners import LEASES, OwnerWatch
from common.supervisor.leasing.sampling import Look
from common.supervisor.leasing.settling import Settling
from common.vram import lease_facts
from common.vram.cards import CardSample, ProcessId
from common.vram.footprint import Footprints
from common.vram.lease_decision import Announce, Decision, EvictionOrder, Instruction, Note, Reply, Unwatch, Watch
from common.vram.lease_facts import EpochOpened, Fact
from common.vram.lease_table import LeaseTable
from common.vram.receipts import Receipts

UNSEEN_ENDS: Final = frozenset(lease_facts.ENDS) - {"evicted"}
RETRY_S: Final = 0.25
"""After the store refused, it is asked again at most this often."""


class LeaseWriter:
    """The table, and all that must agree with it.

    `owner_died` hears of every process on which something hangs, `evict` of every order to take memory back, and `listeners` of
    every change of a lease, once it is committed. `remark` may add to a receipt. `footprints` are what is known of
    models.
    """

    def __init__(
        self,
        shell: Shell,
        host: str,
        owner_died: Callable[[ProcessId], None],
        evict: Callable[[EvictionOrder], None],
        footprints: Footprints | None = None,
    ) -> None:
        self.footprints = footprints if footprints is not None else Footprints(host)
        self.table = LeaseTable(host, footprints=self.footprints)
        self.receipts = Receipts()
        self.owners = OwnerWatch(shell.loop, owner_died)
        self.settling = Settling()
        self.decided: Counter[str] = Counter()
        self.closed: Mapping[str, str] = {}
        self.listeners: list[Callable[[LeaseChanged], None]] = []
        self.remark: Callable[[Receipt], Receipt] = lambda receipt: receipt
        self._shell = shell
        self._host = host
        self._now = shell.clock.monotonic
        self._evict = evict
        self._look: Look | None = None
        self._host_look: HostLook | None = None
        self._cgroups: dict[str, ProcessId] | None = None
        self._epoch_open = False
        self._refused: StorageUnavailable | None = None
        self._retry_at = 0.0
        self._closed = False
        self._join_journal()

    def _join_journal(self) -> None:
        others = self._shell.journal.rebuild

        def rebuild() -> None:
            others()
            self._rebuild()

        self._shell.journal.rebuild = rebuild

    def open(self) -> None:
        """Restores the table and opens an epoch; a store that takes nothing is tried again by `make_sound`.

        Raises CorruptRecord, and StorageUnavailable while the store cannot even be read.
        """
        self._restore()
        try:
            self._open_epoch()
        except StorageUnavailable:
            return  # told by the health answer; leases are listed and none is granted

    def close(self) -> None:
        """Watches no owner any more."""
        self._closed = True
        self.owners.close()

    def measure(self, look: Look) -> None:
        """Takes in a look at the cards; those in `closed` take nothing new, for the reason there."""
        if self.closed:
            look = look._replace(samples=[self._as_closed(sample) for sample in look.samples])
        self._look = look
        self.table.measure(look.samples, look.tree, look.problem)
        self.settling.looked(look.began_at)
        if look.host is not None:
            self._host_look = look.host
            self._measure_host(look.host)

    def _as_closed(self, sample: CardSample) -> CardSample:
        return msgspec.structs.replace(sample, health=sample.health or self.closed.get(sample.uuid, ""))

    def owned_cgroups(self) -> Mapping[str, ProcessId]:
        """The cgroups that hold containers of leases' owners, and whose each is; of two owners of one, who was granted last."""
        if self._cgroups is None:
            owners = [lease.owner for lease in self.table.leases(self._now()) if lease.owner.host in ("", self._host)]
            self._cgroups = {each.cgroup: ProcessId(each.pid, each.start_time) for each in owners if each.cgroup}
        return self._cgroups

    def _measure_host(self, look: HostLook) -> None:
        resources = self.table.resources
        if look.problem:
            resources.unmeasured(look.problem)
            return
        owned: dict[ProcessId, list[str]] = {}
        for lease in self.table.leases(self._now()):
            owned.setdefault(ProcessId(lease.owner.pid, lease.owner.start_time), []).append(lease.lease_id)
        resources.measure(
            ram_total_bytes=look.ram_total_bytes,
            ram_available_bytes=look.ram_available_bytes,
            disk_total_bytes=look.disk_total_bytes,
            disk_available_bytes=look.disk_available_bytes,
            cpu_cores=look.cpu_cores,
            held_ram=resources.by_lease(look.held_ram, owned),
        )

    def see_ram(self) -> None:
        """For a decision that rests on host RAM: takes in what is available at this moment, for others may have taken some."""
        available_bytes = ram_available_bytes()
        if available_bytes is not None:
            self.table.resources.ram_now(available_bytes)

    def make_sound(self) -> None:
        """To be called before a decision: after a failed commit the table is restored, and its epoch is open.

        Raises StorageUnavailable while the store takes nothing.
        """
        self._shell.journal.begin()
        if not self._epoch_open:
            self._open_epoch()

    def record(self, decision: Decision) -> Reply | None:
        """Applies and journals the facts; the instructions follow the commit. Raises the reply that is an error.

        Between `make_sound`, the decision and this nothing may be awaited, or it would be about another table.
        """
        now = self._now()
        self._fold(decision.facts, now)
        for instruction in decision.instructions:
            # What was evicted has been seen to go by the look that ended it.
            if isinstance(instruction, Announce) and instruction.kind in UNSEEN_ENDS:
                lease = instruction.change.lease
                for card_uuid in lease.card_uuids:
                    self.settling.ended(card_uuid, lease.bytes, now)
        if decision.instructions:
            self._shell.journal.hold(lambda failure: self._perform(decision.instructions) if failure is None else None)
        if isinstance(decision.reply, TandemError):
            raise decision.reply
        return decision.reply

    def note(self, receipt: Receipt, key: str = "") -> None:
        """Keeps and counts a receipt."""
        self.receipts.keep(self.remark(receipt), key)
        self.decided[receipt.decision] += 1

    def tell(self, change: LeaseChanged) -> None:
        """Publishes what became of a lease, and has the listeners hear it."""
        self._shell.publisher.publish(leases.LEASE_CHANGED, change.lease.lease_id, change)
        for heard in self.listeners:
            heard(change)

    def _journal(self, fact: Fact) -> None:
        if isinstance(fact, EpochOpened):
            self._shell.store.commit(lease_facts.rows(fact), Durability.FULL)
        elif rows := lease_facts.rows(fact):
            self._shell.journal.write(rows)

    def _perform(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Announce):
                self.tell(instruction.change)
            elif isinstance(instruction, Note):
                self.note(instruction.receipt, instruction.idempotency_key)
            elif isinstance(instruction, Watch):
                self.owners.hold(instruction.owner, LEASES)
            elif isinstance(instruction, Unwatch):
                self.owners.drop(instruction.owner, LEASES)
            else:
                self._evict(instruction.order)

    def _rebuild(self) -> None:
        if self._closed:
            return
        self._raise_refusal()
        self._restore()
        self._open_epoch()

    def _restore(self) -> None:
        self._epoch_open = False
        self._cgroups = None
        store, now = self._shell.store, self._now()
        self.table = LeaseTable.restored(self._host, store, now, footprints=self.footprints)
        if self._look is not None:
            self.table.measure(self._look.samples, self._look.tree, self._look.problem)
        if self._host_look is not None:
            self._measure_host(self._host_look)
        self.owners.follow(self.table.owners())

    def _open_epoch(self) -> None:
        self._raise_refusal()
        try:
            self._fold(self.table.open_epoch().facts, self._now())
        except StorageUnavailable as error:
            self._refused, self._retry_at = error, self._now() + RETRY_S
            self._shell.problems["leases"] = f"no lease can be granted: {error.message}"
            raise
        self._epoch_open, self._refused = True, None
        self._shell.problems.pop("leases", None)
        self._shell.journal.problem = ""

    def _fold(self, facts: Iterable[Fact], now: float) -> None:
        self._cgroups = None
        for fact in facts:
            self._journal(fact)
            self.table.apply(fact, now)

    def _raise_refusal(self) -> None:
        if self._refused is not None and self._now() < self._retry_at:
            raise StorageUnavailable(self._refused.message, retry_after_ms=int(RETRY_S * 1000))
