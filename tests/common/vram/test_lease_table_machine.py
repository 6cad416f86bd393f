"""Any order of requests, uses, evictions, deaths, looks, lies, lost cards and restarts keeps the table's laws.

What is granted is counted from outside: by what the last look at the cards showed and by what the table lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.api.leases import Lease, LeaseGranted, MarkLease, ReleaseLease, RenewLease
from common.api.supervisor import RoomPromised
from common.errors import TandemError
from common.vram.amount import GIB
from common.vram.lease_decision import Announce, Decision, EvictionOrder
from common.vram.lease_facts import ENDS, Expiring
from common.vram.lease_table import LeaseTable
from common.vram.ledger import capacity
from tests.common.vram.table_lab import AT, SLEEPER, UNLOADER, Bench

ids = st.integers(0, 15).map(lambda n: f"lease-{n}")
wants = st.integers(0, 4).map(lambda n: f"want-{n}")
pids = st.integers(0, 3)
sizes = st.sampled_from([0, 1, 2, 4, 8, 12, 16])
rooms = st.sampled_from([2, 8, 12, 16, 20])
cards = st.sampled_from(["", "GPU-a", "GPU-b"])
shapes = st.fixed_dictionaries(
    {},
    optional={
        "share": st.booleans(),
        "exclusive": st.booleans(),
        "pinned": st.booleans(),
        "in_use": st.booleans(),
        "cards": st.sampled_from([1, 1, 2]),
        "priority": st.sampled_from([20, 50, 80]),
        "config": st.sampled_from(["", "q4"]),
        "model": st.sampled_from(["whisper", "llama"]),
        "unload": st.sampled_from([None, UNLOADER, SLEEPER]),
        "ram_bytes": st.sampled_from([0, 4 * GIB, 9 * GIB]),
        "idempotency_key": st.sampled_from(["", "", "k"]),
    },
)

ENGINES = [(1, 10, "a", SLEEPER), (2, 8, "a", None), (3, 8, "b", UNLOADER)]
"""Who is loaded at first: process, GiB, card and verbs."""


class Leases(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.bench = Bench(a=24, b=16).with_host(ram=32)
        self.tokens: dict[str, int] = {}
        self.last_token = 0
        self.over: set[str] = set()
        self.gone: set[str] = set()
        self.seen = self.snapshot()
        for n, (pid, size, card, unload) in enumerate(ENGINES):
            self.an_engine_is_loaded_and_idle(n=100 + n, size=size, pid=pid, card=card, more={"unload": unload})

    @property
    def table(self) -> LeaseTable:
        return self.bench.table

    def leases(self) -> dict[str, Lease]:
        return {lease.lease_id: lease for lease in self.table.leases(self.bench.now)}

    def one_of(self, nth: int, lease_id: str) -> str:
        """A live lease mostly, else the named one, which may have ended or never been."""
        live = [*self.leases()]
        return live[nth] if nth < len(live) else lease_id

    def snapshot(self) -> dict[str, dict[int, int]]:
        return {uuid: {pid: n or 0 for pid, n in uses.items()} for uuid, uses in self.bench.held.items()}

    def commit(self, decision: Decision) -> Decision:
        before = self.leases()
        self.bench.commit(decision)
        for each in decision.instructions:
            if isinstance(each, Announce) and each.change.change in ENDS:
                assert each.change.lease.lease_id not in self.over
                self.over.add(each.change.lease.lease_id)
        for fact in decision.facts:
            if isinstance(fact, Expiring):
                assert not before[fact.lease_id].pinned
                self.gone.add(fact.lease_id)
        return decision

    @rule(
        n=st.integers(0, 15),
        size=st.sampled_from([4, 8, 12]),
        pid=st.integers(1, 3),
        card=st.sampled_from("ab"),
        more=shapes,
    )
    def an_engine_is_loaded_and_idle(self, n: int, size: int, pid: int, card: str, more: dict[str, Any]) -> None:
        """A process takes what it was granted, and is seen to."""
        asked = {**more, "in_use": False, "cards": 1, "share": False}
        self.admit(f"lease-{n}", size, pid, f"GPU-{card}", asked)
        leased = sum(
            each.bytes for each in self.leases().values() if each.owner.pid == pid and f"GPU-{card}" in each.card_uuids
        )
        others = sum(held or 0 for each, held in self.bench.held[f"GPU-{card}"].items() if each != pid)
        self.bench.held[f"GPU-{card}"][pid] = min(leased, self.bench.totals[f"GPU-{card}"] - others)
        self.look()

    @rule(lease_id=ids | wants, size=sizes, pid=pids, card=cards, more=shapes)
    def admit(self, lease_id: str, size: int, pid: int, card: str, more: dict[str, Any]) -> None:
        asked = self.bench.ask(lease_id, size, pid, card_uuid=card, ttl_s=20.0, **more)
        candidates, before = self.table.candidates(self.bench.now), self.leases()
        reserved = self.reservations()
        decision = self.table.admit(asked, self.bench.now, AT)
        assert self.table.candidates(self.bench.now) == candidates
        self.commit(decision)
        if not isinstance(decision.reply, LeaseGranted):
            return
        granted = decision.reply
        assert granted.lease_id not in self.over
        assert self.leases()[granted.lease_id].state == "held"
        if self.tokens.get(granted.lease_id) == granted.fencing_token:
            return
        assert granted.fencing_token > self.last_token
        self.last_token = self.tokens[granted.lease_id] = granted.fencing_token
        if granted.shares:
            assert before[granted.shares].state == "held"
            return
        self.gone.discard(granted.lease_id)
        slept = before.get(granted.lease_id)
        if granted.bytes <= (slept.bytes if slept else 0):
            return  # who wakes with what it kept is promised nothing more, also where others took too much
        assert len(granted.card_uuids) == more.get("cards", 1) or granted.lease_id in before
        for uuid in granted.card_uuids:
            self.check_grant(uuid, lease_id, reserved.get(uuid, {}), bool(more.get("pinned")))

    def check_grant(self, uuid: str, lease_id: str, reserved: Mapping[str, int], pinned: bool) -> None:
        """Counted from outside, what is leased or held, and what is reserved before this request, is not more than the card."""
        mine = [each for each in self.leases().values() if uuid in each.card_uuids and not each.shares]
        ahead = list(reserved)[: list(reserved).index(lease_id)] if lease_id in reserved else list(reserved)
        leased: dict[int, int] = {}
        for each in mine:
            leased[each.owner.pid] = leased.get(each.owner.pid, 0) + each.bytes
        seen = self.seen[uuid]
        counted = sum(max(n, seen.get(pid, 0)) if pid else n for pid, n in leased.items())
        strange = sum(n for pid, n in seen.items() if pid not in leased)
        assert counted + strange + sum(reserved[each] for each in ahead) <= self.bench.totals[uuid]
        if pinned:
            most = capacity(self.bench.totals[uuid]) * 0.8
            assert sum(each.bytes for each in mine if each.pinned) <= most

    def reservations(self) -> dict[str, dict[str, int]]:
        return {card.card_uuid: dict(card.reservations) for card in self.table.cards(self.bench.now)}

    @rule(
        lease_id=ids,
        nth=st.integers(0, 9),
        skew=st.sampled_from([0, 0, 0, 1]),
        what=st.sampled_from(["renew", "use", "idle", "loaded"]),
    )
    def its_holder_speaks(self, lease_id: str, nth: int, skew: int, what: str) -> None:
        lease_id = self.one_of(nth, lease_id)
        token, shown = self.tokens.get(lease_id, 5) + skew, self.leases().get(lease_id)
        if what == "renew":
            decision = self.table.renew(RenewLease(lease_id=lease_id, fencing_token=token), self.bench.now, AT)
        else:
            marks = {"use": {"in_use": True}, "idle": {"in_use": False}, "loaded": {"loaded": True}}[what]
            asked = MarkLease(lease_id=lease_id, fencing_token=token, **marks)
            decision = self.table.mark(asked, self.bench.now, AT)
        if not isinstance(decision.reply, TandemError):
            assert shown is not None
            assert token == self.tokens[lease_id] == shown.fencing_token
            assert shown.state == "held" or what == "idle"
        self.commit(decision)

    @rule(lease_id=ids, nth=st.integers(0, 9), skew=st.sampled_from([0, 0, 1]))
    def release(self, lease_id: str, nth: int, skew: int) -> None:
        lease_id = self.one_of(nth, lease_id)
        token, shown = self.tokens.get(lease_id, 5) + skew, self.leases().get(lease_id)
        decision = self.table.release(ReleaseLease(lease_id=lease_id, fencing_token=token), self.bench.now, AT)
        if not isinstance(decision.reply, TandemError):
            sleeps = shown is not None and shown.state == "parked" and shown.fencing_token
            assert token in (self.tokens[lease_id], sleeps)
        self.commit(decision)

    @rule(
        lease_id=wants,
        size=rooms,
        card=st.sampled_from(["a", "b"]),
        exclusive=st.booleans(),
        patience=st.sampled_from([5.0, 60.0]),
        ram=st.sampled_from([0, 6, 16]),
    )
    def make_room(self, lease_id: str, size: int, card: str, exclusive: bool, patience: float, ram: int) -> None:
        before = self.leases()
        alone = exclusive and size == 2
        decision = self.bench.room(lease_id, size, card, exclusive=alone, patience_s=patience, ram_bytes=ram * GIB)
        self.told(decision, before)

    @rule(lease_id=wants, size=rooms, more=shapes, draining=st.booleans())
    def room_is_made_for_the_hosts_own_line(
        self, lease_id: str, size: int, more: dict[str, Any], draining: bool
    ) -> None:
        before, asked = self.leases(), self.bench.ask(lease_id, size, **more)
        self.told(
            self.bench.commit(self.table.evict_for(asked, self.bench.now, AT, draining=draining)), before, draining
        )

    def told(self, decision: Decision, before: Mapping[str, Lease], draining: bool = False) -> None:
        """What was decided about room; committed already."""
        expiring = [fact.lease_id for fact in decision.facts if isinstance(fact, Expiring)]
        assert isinstance(decision.reply, RoomPromised) or not expiring
        for lease_id in expiring:
            assert not before[lease_id].pinned
            assert draining or not before[lease_id].in_use
            self.gone.add(lease_id)

    @rule(lease_id=wants)
    def nobody_wants_the_room(self, lease_id: str) -> None:
        self.commit(self.table.forget_room(lease_id))
        assert lease_id not in self.table.reserved()

    @precondition(lambda self: self.table.pending_evictions())
    @rule(how=st.sampled_from(["evicted", "parked", "quarantined"]), left=st.sampled_from([0, 1, 2]), data=st.data())
    def an_eviction_ends(self, how: str, left: int, data: st.DataObject) -> None:
        order = data.draw(st.sampled_from([each.order for each in self.table.pending_evictions()]))
        if how == "parked" and self.table.not_parked(order.lease_ids):
            how = "evicted"  # whose weights would not fit into host RAM is not put to sleep
        self.release_bytes(order, 0 if how == "evicted" else left)
        now, ids = self.bench.now, order.lease_ids
        if how == "evicted":
            self.commit(self.table.evicted(ids, [], order.expected_bytes, now, AT))
        elif how == "quarantined":
            self.commit(self.table.quarantined(ids, left * GIB, [], now, AT))
        else:
            for lease_id in ids:
                self.commit(self.table.parked(lease_id, left * GIB, 2 * GIB, [], now, AT))
                self.last_token = max(self.last_token, self.leases()[lease_id].fencing_token)

    def release_bytes(self, order: EvictionOrder, left: int) -> None:
        """The owner's bytes go down to what is left and to its other leases; a look shows it."""
        if order.owner is not None and not order.keep_bytes:
            for uuid in order.card_uuids:
                if order.owner.pid in self.bench.held[uuid]:
                    self.bench.held[uuid][order.owner.pid] = left * GIB
        self.look()

    @rule(seconds=st.sampled_from([0.5, 3.0, 12.0]), looks=st.sampled_from([True, True, False]))
    def time_passes(self, seconds: float, looks: bool) -> None:
        self.bench.now += seconds
        if looks:
            self.look()
        self.commit(self.table.expire(self.bench.now, AT))

    @rule(pid=st.integers(1, 3))
    def an_owner_dies(self, pid: int) -> None:
        for uses in self.bench.held.values():
            uses.pop(pid, None)
        self.commit(self.table.owner_died(pid, 5_000, self.bench.now, AT))

    @rule(uuid=st.sampled_from(["GPU-a", "GPU-b"]), pid=st.integers(1, 5), size=st.integers(0, 8))
    def a_process_uses_memory(self, uuid: str, pid: int, size: int) -> None:
        uses = self.bench.held[uuid]
        if sum(n or 0 for n in uses.values()) - (uses.get(pid) or 0) + size * GIB <= self.bench.totals[uuid]:
            uses[pid] = size * GIB

    @rule(problem=st.sampled_from(["", "", "", "NVML is gone"]))
    def look(self, problem: str = "") -> None:
        self.bench.look(problem)
        if not problem:
            self.seen = self.snapshot()
        self.commit(self.table.corrections(self.bench.now, AT))

    @rule(uuid=st.sampled_from(["GPU-a", "GPU-b"]), seconds=st.sampled_from([1.0, 40.0]))
    def a_card_is_lost_for_a_while(self, uuid: str, seconds: float) -> None:
        self.bench.odd[uuid] = {"problem": "fell off the bus", "lost": True}
        self.bench.now += seconds
        self.bench.look()
        self.commit(self.table.expire(self.bench.now, AT))
        del self.bench.odd[uuid]
        self.look()

    @rule(really=st.sampled_from([True, False, False]))
    def the_supervisor_restarts(self, really: bool) -> None:
        if not really:
            return
        kept = [(each.lease_id, each.state, each.fencing_token, each.bytes) for each in self.leases().values()]
        self.bench.restart()
        self.bench.with_host(ram=32)
        self.seen = self.snapshot()
        found = [(each.lease_id, each.state, each.fencing_token, each.bytes) for each in self.leases().values()]
        assert sorted(found) == sorted(kept)

    @invariant()
    def shares_live_with_what_they_share_and_hold_no_bytes(self) -> None:
        live = self.leases()
        for lease in live.values():
            assert not lease.shares or (lease.shares in live and lease.bytes == 0 and not live[lease.shares].shares)

    @invariant()
    def who_has_a_card_to_itself_has_it_to_itself(self) -> None:
        own = [each for each in self.leases().values() if not each.shares]
        for alone in own:
            if alone.exclusive and alone.state != "parked":
                assert not [each for each in own if each is not alone and set(each.card_uuids) & set(alone.card_uuids)]

    @invariant()
    def what_ended_is_not_live_and_what_has_to_go_is_not_held(self) -> None:
        live = self.leases()
        assert not self.over & live.keys()
        assert not [each for each in self.gone if each in live and live[each].state == "held"]

    @invariant()
    def whatever_has_to_go_and_is_idle_is_ordered(self) -> None:
        live = list(self.leases().values())
        busy = {each.owner.pid for each in live if each.state == "expiring" and each.in_use}
        ordered = {each for evict in self.table.pending_evictions() for each in evict.order.lease_ids}
        going = {each.lease_id: each for each in live if each.state == "expiring" and not each.in_use}
        assert ordered <= going.keys()
        assert all(going[each].owner.pid in busy for each in going.keys() - ordered)

    @invariant()
    def the_figures_of_every_card_add_up(self) -> None:
        for card in self.table.cards(self.bench.now):
            held = card.measured_bytes + sum(each.bytes for each in card.strangers) + card.nameless_bytes
            assert card.total_bytes == card.free_bytes + held
            assert card.grantable_bytes <= max(0, card.free_bytes - card.guard_bytes)
            own = [each for each in self.leases().values() if card.card_uuid in each.card_uuids and not each.shares]
            assert card.leased_bytes == sum(each.bytes for each in own)
            assert card.pinned_bytes == sum(each.bytes for each in own if each.pinned)

    @invariant()
    def the_host_leases_what_its_leases_say(self) -> None:
        host = self.table.host_memory()
        assert host.ram_leased_bytes == sum(each.ram_bytes for each in self.leases().values())
        assert host.ram_leased_bytes + host.ram_reserved_bytes <= host.ram_ceiling_bytes

    def teardown(self) -> None:
        again = LeaseTable.restored("mainpc", self.bench.store, self.bench.now)
        assert again.owners() == self.table.owners()
        assert again.open_epoch() == self.table.open_epoch()
        assert sorted(each.lease_id for each in again.leases(self.bench.now)) == sorted(self.leases())


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
