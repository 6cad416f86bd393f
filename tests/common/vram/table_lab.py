"""A lease table driven as a supervisor drives it: with a clock, a store that outlives it, and cards that show what is on them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from common.api.decisions import PlanLease, Receipt, Rung
from common.api.leases import Lease, LeaseGranted, MarkLease, Owner, ReleaseLease, RenewLease, Unload
from common.api.supervisor import AdmitLease, MakeRoom, RoomPromised
from common.errors import TandemError
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.vram.amount import GIB
from common.vram.cards import CardSample, ProcessUse
from common.vram.lease_decision import Announce, Decision, Evict, EvictionOrder, Note, Unwatch, Watch
from common.vram.lease_facts import rows
from common.vram.lease_table import LeaseTable

AT = "2025-01-01T00:00:00Z"
TICK = 5_000
SLEEPER = Unload(port=9_000, sleep="sleep", unload="unload")
UNLOADER = Unload(port=9_000, unload="unload")
LEFT = 256 * 2**20
"""The guard band of a card of up to 25 GiB."""

E = TypeVar("E", bound=TandemError)


def owner(pid: int) -> Owner:
    return Owner(agent_name=f"agent-{pid}", host="mainpc", pid=pid, start_time=TICK)


class Bench:
    """One host with cards `a` (24 GiB) and `b` (12 GiB), or as many as `totals` names."""

    def __init__(self, **totals: float) -> None:
        self.now = 1_000.0
        self.store = MemoryStore()
        self.totals = {f"GPU-{name}": int(n * GIB) for name, n in (totals or {"a": 24.0, "b": 12.0}).items()}
        self.held: dict[str, dict[int, int | None]] = {uuid: {} for uuid in self.totals}
        self.nameless = dict.fromkeys(self.totals, 0)
        self.odd: dict[str, dict[str, Any]] = {}
        self.tree: dict[int, int] = {}
        self.watched: set[object] = set()
        self.restart()

    def restart(self) -> None:
        self.table = LeaseTable.restored("mainpc", self.store, self.now)
        self.watched = set(self.table.owners())
        self.commit(self.table.open_epoch())
        self.look()

    def use(self, card: str, pid: int, n: float | None) -> None:
        """The process holds so many GiB on the card from the next look on; None hides them, which are then nameless."""
        self.held[f"GPU-{card}"][pid] = None if n is None else int(n * GIB)

    def end(self, pid: int) -> Decision:
        """The process ends, with its bytes, and its owner's death is told."""
        for uses in self.held.values():
            uses.pop(pid, None)
        return self.commit(self.table.owner_died(pid, TICK, self.now, AT))

    def sample(self, uuid: str, index: int) -> CardSample:
        uses = self.held[uuid]
        used = sum(n or 0 for n in uses.values()) + self.nameless[uuid]
        sample = CardSample(
            host="mainpc",
            index=index,
            uuid=uuid,
            name="card",
            total_bytes=self.totals[uuid],
            free_bytes=self.totals[uuid] - used,
            used_bytes=used,
            processes=tuple(ProcessUse(pid, TICK, f"p{pid}", n) for pid, n in uses.items()),
            sampled_at=self.now,
        )
        return msgspec.structs.replace(sample, **self.odd.get(uuid, {}))

    def look(self, problem: str = "") -> None:
        samples = [self.sample(uuid, index) for index, uuid in enumerate(self.totals)]
        self.table.measure([] if problem else samples, self.tree, problem)

    def wait(self, seconds: float) -> Decision:
        """Time passes, a look is taken and what is late ends."""
        self.now += seconds
        self.look()
        return self.commit(self.table.expire(self.now, AT))

    def commit(self, decision: Decision) -> Decision:
        for fact in decision.facts:
            self.store.commit(rows(fact), Durability.NORMAL)
            self.table.apply(fact, self.now)
        for each in decision.instructions:
            if isinstance(each, Watch):
                assert each.owner not in self.watched
                self.watched.add(each.owner)
            elif isinstance(each, Unwatch):
                self.watched.remove(each.owner)
        assert self.watched == set(self.table.owners())
        return decision

    def ask(self, lease_id: str, n: float = 10, pid: int = 0, **more: Any) -> AdmitLease:
        fields = {"model": "whisper", "owner": owner(pid) if pid else None, **more}
        return AdmitLease(lease_id=lease_id, bytes=int(n * GIB), **fields)

    def admit(self, lease_id: str, n: float = 10, pid: int = 0, **more: Any) -> Decision:
        return self.commit(self.table.admit(self.ask(lease_id, n, pid, **more), self.now, AT))

    def grant(self, lease_id: str, n: float = 10, pid: int = 0, **more: Any) -> LeaseGranted:
        reply = self.admit(lease_id, n, pid, **more).reply
        assert isinstance(reply, LeaseGranted), reply
        return reply

    def loaded(self, lease_id: str, n: float = 10, pid: int = 1, card: str = "a", **more: Any) -> LeaseGranted:
        """A lease on the card that its owner has filled, and uses no more."""
        granted = self.grant(lease_id, n, pid, card_uuid=f"GPU-{card}", in_use=False, **more)
        self.use(card, pid, n)
        self.look()
        return granted

    def room(self, lease_id: str, n: float = 10, card: str = "a", priority: int = 50, **more: Any) -> Decision:
        asked = MakeRoom(
            lease_id=lease_id,
            model=more.pop("model", "llama"),
            bytes=int(n * GIB),
            priority=priority,
            card_uuid=f"GPU-{card}",
            **more,
        )
        return self.commit(self.table.make_room(asked, self.now, AT))

    def promised(self, lease_id: str, n: float = 10, card: str = "a", **more: Any) -> tuple[list[str], Decision]:
        """Room as promised: the leases that were chosen, and the decision."""
        decision = self.room(lease_id, n, card, **more)
        assert isinstance(decision.reply, RoomPromised), decision.reply
        return [each.lease_id for each in decision.reply.victims if each.chosen], decision

    def mark(self, granted: LeaseGranted, **marks: bool) -> Decision:
        asked = MarkLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token, **marks)
        return self.commit(self.table.mark(asked, self.now, AT))

    def renew(self, granted: LeaseGranted) -> Decision:
        asked = RenewLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
        return self.commit(self.table.renew(asked, self.now, AT))

    def release(self, granted: LeaseGranted) -> Decision:
        asked = ReleaseLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
        return self.commit(self.table.release(asked, self.now, AT))

    def evicted(self, *lease_ids: str, n: float = 0) -> Decision:
        return self.commit(self.table.evicted(lease_ids, [RUNG], int(n * GIB), self.now, AT))

    def parked(self, lease_id: str, n: float = 0.5, ram: float = 9.5) -> Decision:
        return self.commit(self.table.parked(lease_id, int(n * GIB), int(ram * GIB), [RUNG], self.now, AT))

    def quarantined(self, *lease_ids: str, n: float) -> Decision:
        return self.commit(self.table.quarantined(lease_ids, int(n * GIB), [RUNG], self.now, AT))

    def plan(self, n: float, **more: Any) -> Any:
        return self.table.plan(PlanLease(model="whisper", bytes=int(n * GIB), **more), self.now)

    def with_host(self, ram: float = 64, disk: float = 100, cores: float = 0.0) -> Bench:
        """The host's RAM, disk and cores as measured, all of it free; without `cores` these are as they were."""
        self.table.resources.measure(
            ram_total_bytes=int(ram * GIB),
            ram_available_bytes=int(ram * GIB),
            disk_total_bytes=int(disk * GIB),
            disk_available_bytes=int(disk * GIB),
            cpu_cores=cores,
        )
        return self

    def lease(self, lease_id: str) -> Lease:
        return next(each for each in self.table.leases(self.now) if each.lease_id == lease_id)

    def held_ids(self) -> list[str]:
        return [lease.lease_id for lease in self.table.leases(self.now)]

    def free(self, card: str = "a", lease_id: str = "") -> int:
        cards = self.table.candidates(self.now, lease_id)
        return next(each.grantable_bytes for each in cards if each.uuid == f"GPU-{card}")


RUNG = Rung(rung="unload", claimed="200", took_s=1.0, bytes_before=1, bytes_after=0, outcome="freed")


def refused(decision: Decision, kind: type[E]) -> E:
    assert isinstance(decision.reply, kind), decision.reply
    return decision.reply


def changes(decision: Decision) -> list[tuple[str, str]]:
    return [
        (each.change.change, each.change.lease.lease_id) for each in decision.instructions if isinstance(each, Announce)
    ]


def receipts(decision: Decision) -> list[Receipt]:
    return [each.receipt for each in decision.instructions if isinstance(each, Note)]


def orders(decision: Decision) -> list[EvictionOrder]:
    return [each.order for each in decision.instructions if isinstance(each, Evict)]
