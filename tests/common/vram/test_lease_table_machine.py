"""Any order of requests, renewals, releases, deaths, looks, lost cards and restarts keeps the table's laws."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.api.leases import LeaseGranted, LeaseRenewed, Owner, ReleaseLease, RenewLease
from common.api.supervisor import AdmitLease
from common.errors import TandemError
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.vram.amount import GIB
from common.vram.cards import CardSample, ProcessUse
from common.vram.lease_decision import Announce, Decision, Unwatch, Watch
from common.vram.lease_facts import Fact, rows
from common.vram.lease_table import LeaseTable

AT = "2025-01-01T00:00:00Z"
TOTALS = {"GPU-a": 24 * GIB, "GPU-b": 12 * GIB}
ids = st.integers(0, 30).map(lambda n: f"lease-{n}")


class Leases(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.now = 0.0
        self.store = MemoryStore()
        self.restarted = False
        self.facts: list[tuple[Fact, float]] = []
        self.tokens: dict[str, int] = {}
        self.last_token = 0
        self.over: set[str] = set()
        self.watched: set[object] = set()
        self.held: dict[str, dict[int, int]] = {uuid: {} for uuid in TOTALS}
        self.table = LeaseTable("mainpc")
        self.commit(self.table.open_epoch())
        self.look()

    def look(self, problem: str = "", lost: str = "") -> None:
        samples = [
            CardSample(
                host="mainpc",
                index=index,
                uuid=uuid,
                name="card",
                total_bytes=total,
                free_bytes=max(0, total - sum(self.held[uuid].values())),
                used_bytes=0,
                processes=tuple(ProcessUse(pid, 1, "python", n) for pid, n in self.held[uuid].items()),
                sampled_at=self.now,
                problem="Xid 79" if uuid == lost else "",
            )
            for index, (uuid, total) in enumerate(TOTALS.items())
        ]
        self.table.measure([] if problem else samples, {}, problem)

    def commit(self, decision: Decision) -> None:
        for fact in decision.facts:
            self.store.commit(rows(fact), Durability.NORMAL)
            self.table.apply(fact, self.now)
            self.facts.append((fact, self.now))
        for each in decision.instructions:
            if isinstance(each, Watch):
                self.watched.add(each.owner)
            elif isinstance(each, Unwatch):
                self.watched.remove(each.owner)
            elif isinstance(each, Announce) and each.change.change != "granted":
                assert each.change.lease.lease_id not in self.over
                self.over.add(each.change.lease.lease_id)

    @rule(lease_id=ids, size=st.integers(0, 14), key=st.sampled_from(["", "", "k1", "k2"]), pid=st.integers(0, 3))
    def admit(self, lease_id: str, size: int, key: str, pid: int) -> None:
        owner = Owner(host="mainpc", pid=pid, start_time=1) if pid else None
        asked = AdmitLease(
            lease_id=lease_id, model="m", bytes=size * GIB, idempotency_key=key, identity="me", owner=owner, ttl_s=10.0
        )
        before = {card.uuid: card for card in self.table.candidates(self.now)}
        decision = self.table.admit(asked, self.now, AT)
        assert self.table.candidates(self.now) == list(before.values())
        self.commit(decision)
        if isinstance(decision.reply, LeaseGranted):
            granted = decision.reply
            assert granted.lease_id not in self.over
            if granted.lease_id in self.tokens:
                assert granted.fencing_token == self.tokens[granted.lease_id]
                return
            assert granted.fencing_token > self.last_token
            self.last_token = self.tokens[granted.lease_id] = granted.fencing_token
            assert before[granted.card_uuid].grantable_bytes >= size * GIB
            assert not before[granted.card_uuid].problem

    @rule(lease_id=ids, skew=st.sampled_from([0, 0, 0, 1, -1]))
    def renew(self, lease_id: str, skew: int) -> None:
        token = max(0, self.tokens.get(lease_id, 5) + skew)
        decision = self.table.renew(RenewLease(lease_id=lease_id, fencing_token=token), self.now, AT)
        if isinstance(decision.reply, LeaseRenewed):
            assert lease_id not in self.over
            assert token == self.tokens[lease_id]
        self.commit(decision)

    @rule(lease_id=ids, skew=st.sampled_from([0, 0, 1]))
    def release(self, lease_id: str, skew: int) -> None:
        token = self.tokens.get(lease_id, 5) + skew
        decision = self.table.release(ReleaseLease(lease_id=lease_id, fencing_token=token), self.now, AT)
        if not isinstance(decision.reply, TandemError):
            assert token == self.tokens[lease_id]
        self.commit(decision)

    @rule(seconds=st.sampled_from([0.5, 2.0, 7.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.commit(self.table.expire(self.now, AT))

    @rule(pid=st.integers(1, 3))
    def an_owner_dies(self, pid: int) -> None:
        for uses in self.held.values():
            uses.pop(pid, None)
        self.commit(self.table.owner_died(pid, 1, self.now, AT))

    @rule(uuid=st.sampled_from(sorted(TOTALS)), pid=st.integers(1, 5), size=st.integers(0, 8))
    def a_process_uses_memory(self, uuid: str, pid: int, size: int) -> None:
        if sum(self.held[uuid].values()) - self.held[uuid].get(pid, 0) + size * GIB <= TOTALS[uuid]:
            self.held[uuid][pid] = size * GIB

    @rule(problem=st.sampled_from(["", "", "", "NVML is gone"]))
    def the_cards_are_looked_at(self, problem: str) -> None:
        self.look(problem)

    @rule(uuid=st.sampled_from(sorted(TOTALS)))
    def a_card_is_lost(self, uuid: str) -> None:
        self.look(lost=uuid)

    @rule()
    def the_supervisor_restarts(self) -> None:
        kept = self.table.leases(self.now)
        self.table = LeaseTable.restored("mainpc", self.store, self.now)
        assert [lease.lease_id for lease in self.table.leases(self.now)] == [lease.lease_id for lease in kept]
        self.watched = set(self.table.owners())
        self.restarted = True
        self.commit(self.table.open_epoch())
        self.look()

    @invariant()
    def no_card_is_leased_beyond_its_size(self) -> None:
        for uuid, total in TOTALS.items():
            assert sum(lease.bytes for lease in self.table.leases(self.now) if lease.card_uuid == uuid) <= total

    @invariant()
    def what_ended_is_not_live(self) -> None:
        assert not self.over & {lease.lease_id for lease in self.table.leases(self.now)}

    @invariant()
    def the_watched_are_the_owners(self) -> None:
        assert self.watched == set(self.table.owners())

    @invariant()
    def the_store_holds_what_the_table_holds(self) -> None:
        again = LeaseTable.restored("mainpc", self.store, self.now)
        mine = {lease.lease_id: lease.fencing_token for lease in self.table.leases(self.now)}
        assert {lease.lease_id: lease.fencing_token for lease in again.leases(self.now)} == mine
        assert again.owners() == self.table.owners()
        assert again.open_epoch() == self.table.open_epoch()

    @invariant()
    def facts_replay_to_the_same_state(self) -> None:
        if not self.restarted:
            again = LeaseTable("mainpc")
            for fact, at in self.facts:
                again.apply(fact, at)
            mine = [(each.lease_id, each.fencing_token, each.expires_in_s) for each in self.table.leases(self.now)]
            assert [(each.lease_id, each.fencing_token, each.expires_in_s) for each in again.leases(self.now)] == mine


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
