from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import pytest

from common.api.decisions import PlanLease
from common.api.leases import LeaseGranted, LeaseRenewed, Owner, ReleaseLease, RenewLease
from common.api.supervisor import AdmitLease
from common.api.words import Empty
from common.errors import (
    Conflict,
    IdempotencyMismatch,
    NoCapacity,
    NotFound,
    StaleFence,
    TandemError,
    TooLarge,
    Unavailable,
)
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.vram.amount import GIB
from common.vram.cards import CardSample, ProcessId, ProcessUse
from common.vram.demand import ModelKey
from common.vram.fencing import COUNTERS, Fence, parse
from common.vram.lease_decision import Announce, Decision, Note, Unwatch, Watch
from common.vram.lease_ending import REMEMBERED_S
from common.vram.lease_facts import EpochOpened, Forgotten, Granted, LeaseRecord, rows
from common.vram.lease_state import LeaseState
from common.vram.lease_table import LeaseTable
from common.vram.lease_view import body_of
from common.vram.ledger import capacity

AT = "2025-01-01T00:00:00Z"
OWNER = Owner(host="mainpc", pid=100, start_time=5_000)


def look(
    *uses: tuple[int, int], uuid: str = "GPU-a", index: int = 0, total: int = 24 * GIB, at: float = 0.0
) -> CardSample:
    held = sum(used for _, used in uses)
    return CardSample(
        host="mainpc",
        index=index,
        uuid=uuid,
        name="card",
        total_bytes=total,
        free_bytes=total - held,
        used_bytes=held,
        processes=tuple(ProcessUse(pid, 5_000, "python", used) for pid, used in uses),
        simulated=True,
        sampled_at=at,
    )


TWO_CARDS = (look(), look(uuid="GPU-b", index=1, total=12 * GIB))


class Host:
    """A lease table driven as a supervisor drives it, with a clock of its own and a store that outlives it."""

    def __init__(self, samples: Sequence[CardSample] = TWO_CARDS) -> None:
        self.now = 0.0
        self.store = MemoryStore()
        self.samples = samples
        self.restart()

    def restart(self) -> None:
        self.table = LeaseTable.restored("mainpc", self.store, self.now)
        self.commit(self.table.open_epoch())
        self.measure(*self.samples)

    def measure(self, *samples: CardSample) -> None:
        self.table.measure(samples, {})

    def commit(self, decision: Decision) -> Decision:
        for fact in decision.facts:
            self.store.commit(rows(fact), Durability.NORMAL)
            self.table.apply(fact, self.now)
        return decision

    def admit(
        self, lease_id: str, n: float = 10, key: str = "", owner: Owner | None = None, **more: object
    ) -> Decision:
        asked = AdmitLease(
            lease_id=lease_id,
            model="whisper",
            bytes=int(n * GIB),
            idempotency_key=key,
            owner=owner,
            **more,  # type: ignore[arg-type]
        )
        return self.commit(self.table.admit(asked, self.now, AT))

    def granted(
        self, lease_id: str, n: float = 10, key: str = "", owner: Owner | None = None, **more: object
    ) -> LeaseGranted:
        reply = self.admit(lease_id, n, key, owner, **more).reply
        assert isinstance(reply, LeaseGranted), reply
        return reply

    def renew(self, lease_id: str, token: int) -> Decision:
        return self.commit(self.table.renew(RenewLease(lease_id=lease_id, fencing_token=token), self.now, AT))

    def release(self, lease_id: str, token: int) -> Decision:
        return self.commit(self.table.release(ReleaseLease(lease_id=lease_id, fencing_token=token), self.now, AT))

    def expire(self) -> Decision:
        return self.commit(self.table.expire(self.now, AT))

    def held(self) -> list[str]:
        return [lease.lease_id for lease in self.table.leases(self.now)]


def changes(decision: Decision) -> list[tuple[str, str]]:
    return [
        (each.change.change, each.change.lease.lease_id) for each in decision.instructions if isinstance(each, Announce)
    ]


def refusal(decision: Decision, kind: type[TandemError]) -> TandemError:
    assert isinstance(decision.reply, kind), decision.reply
    return decision.reply


def test_a_lease_is_granted_on_the_tightest_fit_with_a_token_and_told_to_all() -> None:
    host = Host()
    decision = host.admit("lease-1", 10, key="k")
    assert decision.reply == LeaseGranted(
        lease_id="lease-1",
        host="mainpc",
        card=1,
        card_uuid="GPU-b",
        fencing_token=Fence(1, 1).token,
        expires_in_s=60.0,
        bytes=10 * GIB,
        card_uuids=["GPU-b"],
    )
    assert changes(decision) == [("granted", "lease-1")]
    (note,) = [each for each in decision.instructions if isinstance(each, Note)]
    assert (note.receipt.decision, note.receipt.card_uuid, note.idempotency_key) == ("granted", "GPU-b", "k")
    assert len(note.receipt.cards) == 2
    assert host.held() == ["lease-1"]


def test_what_does_not_fit_now_is_refused_with_every_cards_reason() -> None:
    host = Host()
    host.granted("lease-1", 20)
    error = refusal(host.admit("lease-2", 15), NoCapacity)
    assert error.message.startswith("whisper needs 15.0 GiB; 3.8 GiB free on mainpc:0")
    assert [card["card"] for card in error.details["cards"]] == [0, 1]
    assert host.held() == ["lease-1"]


def test_what_never_fits_and_what_names_no_card_is_refused_for_good() -> None:
    host = Host()
    refusal(host.admit("lease-1", 30), TooLarge)
    refusal(host.admit("lease-1", 1, host="pc2"), NotFound)


def test_before_the_first_look_a_request_may_come_again() -> None:
    host = Host(())
    host.table = LeaseTable("mainpc")
    refusal(host.admit("lease-1"), Unavailable)
    host.commit(host.table.open_epoch())
    assert "not been measured yet" in refusal(host.admit("lease-1"), NoCapacity).message


def test_the_same_id_or_key_gives_the_same_lease() -> None:
    host = Host()
    first = host.granted("lease-1", key="k")
    host.now = 20.0
    assert host.granted("lease-9", key="k").lease_id == "lease-1"
    again = host.admit("lease-1", key="k")
    assert again.reply == LeaseGranted(**{**_fields(first), "expires_in_s": 40.0})
    assert again.facts == ()


def test_a_key_means_one_identitys_request() -> None:
    host = Host()
    host.granted("lease-1", 2, key="k", identity="anna")
    assert host.granted("lease-2", 2, key="k", identity="ben").lease_id == "lease-2"


def test_the_same_id_or_key_with_another_body_is_a_mismatch() -> None:
    host = Host()
    granted = host.granted("lease-1", key="k")
    refusal(host.admit("lease-9", 5, key="k"), IdempotencyMismatch)
    host.release("lease-1", granted.fencing_token)
    refusal(host.admit("lease-1", 5), IdempotencyMismatch)


def test_the_card_and_the_patience_of_a_repeated_request_do_not_matter() -> None:
    asked = AdmitLease(lease_id="x", model="m", bytes=1, host="mainpc", wait_s=5)
    assert body_of(asked) == body_of(AdmitLease(lease_id="y", model="m", bytes=1, card_uuid="GPU-a"))
    assert body_of(asked) != body_of(AdmitLease(lease_id="x", model="m", bytes=2))


def test_an_ended_leases_id_and_key_are_never_granted_again() -> None:
    host = Host()
    granted = host.granted("lease-1", key="k")
    host.release("lease-1", granted.fencing_token)
    refusal(host.admit("lease-9", key="k"), Conflict)
    assert refusal(host.admit("lease-1"), Conflict).details["end"] == "released"
    host.restart()
    refusal(host.admit("lease-9", key="k"), Conflict)


def test_a_planner_may_use_a_key_again_whose_lease_was_given_back() -> None:
    host = Host()
    first = host.granted("lease-1", key="k", anew=True)
    assert host.granted("lease-2", key="k", anew=True).lease_id == "lease-1"
    host.release("lease-1", first.fencing_token)
    refusal(host.admit("lease-1", key="k", anew=True), Conflict)
    second = host.granted("lease-3", key="k", anew=True)
    assert second.lease_id == "lease-3"
    assert second.fencing_token > first.fencing_token
    for _ in range(2):
        assert host.granted("lease-4", key="k").lease_id == "lease-3"
        host.restart()
    host.now += 2 * REMEMBERED_S
    host.commit(host.table.expire(host.now, AT))
    host.restart()
    refusal(host.admit("lease-6", key="k"), Conflict)


def test_a_key_means_the_newest_of_its_leases_in_whatever_order_they_are_loaded() -> None:
    host = Host()
    for lease_id in ("lease-9", "lease-3"):
        granted = host.granted(lease_id, key="k", anew=True)
        host.release(lease_id, granted.fencing_token)
    for _ in range(2):
        assert refusal(host.admit("lease-5", key="k"), Conflict).details["lease_id"] == "lease-3"
        host.restart()


@pytest.mark.parametrize("end", ["expired", "owner-died"])
def test_a_lease_that_ended_otherwise_keeps_its_key(end: str) -> None:
    host = Host()
    owner = Owner(agent_name="a", host="mainpc", pid=7, start_time=1) if end == "owner-died" else None
    host.granted("lease-1", key="k", owner=owner, anew=True)
    host.now += 61.0
    host.commit(host.table.owner_died(7, 1, host.now, AT) if owner else host.table.expire(host.now, AT))
    assert refusal(host.admit("lease-2", key="k", owner=owner, anew=True), Conflict).details["end"] == end


def test_a_renewal_starts_the_ttl_anew() -> None:
    host = Host()
    token = host.granted("lease-1").fencing_token
    host.now = 59.0
    assert host.renew("lease-1", token).reply == LeaseRenewed(expires_in_s=60.0)
    host.now = 118.0
    assert host.expire().facts == ()
    host.now = 119.0
    assert changes(host.expire()) == [("expired", "lease-1")]


def test_a_renewal_never_revives_an_expired_lease() -> None:
    host = Host()
    token = host.granted("lease-1").fencing_token
    host.now = 60.0
    decision = host.renew("lease-1", token)
    refusal(decision, StaleFence)
    assert changes(decision) == [("expired", "lease-1")]
    assert host.held() == []
    assert refusal(host.renew("lease-1", token), StaleFence).details["end"] == "expired"


def test_asking_again_never_revives_an_expired_lease() -> None:
    host = Host()
    host.granted("lease-1", key="k")
    host.now = 60.0
    decision = host.admit("lease-2", key="k")
    assert refusal(decision, Conflict).details == {"lease_id": "lease-1", "end": "expired"}
    assert host.held() == []


def test_a_stale_token_is_refused() -> None:
    host = Host()
    token = host.granted("lease-1").fencing_token
    for stale in (token - 1, token + 1):
        refusal(host.renew("lease-1", stale), StaleFence)
        refusal(host.release("lease-1", stale), StaleFence)
    assert host.held() == ["lease-1"]
    host.release("lease-1", token)
    refusal(host.release("lease-1", token + 1), StaleFence)


def test_giving_back_twice_is_no_error() -> None:
    host = Host()
    token = host.granted("lease-1").fencing_token
    assert host.release("lease-1", token).reply == Empty()
    again = host.release("lease-1", token)
    assert (again.reply, again.facts) == (Empty(), ())


def test_a_lease_nobody_knows_is_not_found() -> None:
    refusal(Host().renew("lease-x", 1), NotFound)
    refusal(Host().release("lease-x", 1), NotFound)


def test_a_lease_with_a_live_owner_outlives_its_ttl_and_ends_with_its_process() -> None:
    host = Host()
    token = host.granted("lease-1", owner=OWNER).fencing_token
    host.now = 3_600.0
    assert host.expire().facts == ()
    assert host.renew("lease-1", token).reply == LeaseRenewed(expires_in_s=60.0)
    assert host.commit(host.table.owner_died(100, 4_999, host.now, AT)).facts == ()
    decision = host.commit(host.table.owner_died(100, 5_000, host.now, AT))
    assert changes(decision) == [("owner-died", "lease-1")]
    assert Unwatch(ProcessId(100, 5_000)) in decision.instructions
    assert host.table.candidates(0.0)[1].grantable_bytes == capacity(12 * GIB)


def test_an_owner_is_watched_once_and_until_its_last_lease_ends() -> None:
    host = Host()
    first = host.admit("lease-1", 2, owner=OWNER)
    second = host.admit("lease-2", 2, owner=OWNER)
    assert [type(each) for each in first.instructions] == [Watch, Announce, Note]
    assert [type(each) for each in second.instructions] == [Announce, Note]
    assert host.table.owners() == {ProcessId(100, 5_000)}
    tokens = [each.reply.fencing_token for each in (first, second) if isinstance(each.reply, LeaseGranted)]
    assert not any(isinstance(each, Unwatch) for each in host.release("lease-1", tokens[0]).instructions)
    assert any(isinstance(each, Unwatch) for each in host.release("lease-2", tokens[1]).instructions)
    assert host.table.owners() == frozenset()


@pytest.mark.parametrize(
    "owner", [Owner(host="pc2", pid=100, start_time=5_000), Owner(host="mainpc", pid=100), Owner(agent_name="whisper")]
)
def test_an_owner_that_cannot_be_watched_here_leaves_the_lease_to_its_ttl(owner: Owner) -> None:
    host = Host()
    host.granted("lease-1", owner=owner)
    assert host.table.owners() == frozenset()
    host.now = 60.0
    assert changes(host.expire()) == [("expired", "lease-1")]


def test_the_death_of_an_owner_ends_its_leases_on_all_cards() -> None:
    host = Host()
    host.granted("lease-1", 10, owner=OWNER)
    host.granted("lease-2", 20, owner=OWNER)
    host.granted("lease-3", 1)
    host.commit(host.table.owner_died(100, 5_000, 0.0, AT))
    assert host.held() == ["lease-3"]


def test_a_lost_card_ends_no_lease_and_grants_nothing() -> None:
    host = Host()
    host.granted("lease-1", 20, owner=OWNER)
    host.measure(msgspec.structs.replace(TWO_CARDS[0], problem="Xid 79"), TWO_CARDS[1])
    assert host.held() == ["lease-1"]
    assert len(host.table) == 1
    assert "(Xid 79)" in refusal(host.admit("lease-2", 15), NoCapacity).message
    assert not host.table.cards(0.0)[0].schedulable


def test_a_missing_measurement_ages_no_lease_and_grants_nothing() -> None:
    host = Host()
    host.granted("lease-1", owner=OWNER)
    host.now = 30.0
    assert host.expire().facts == ()
    assert "last measured 30.0 s ago" in refusal(host.admit("lease-2"), NoCapacity).message


def test_what_a_lease_is_measured_to_hold_is_listed() -> None:
    host = Host()
    host.granted("lease-1", 10, owner=OWNER)
    host.measure(look(), look((100, 9 * GIB), uuid="GPU-b", index=1, total=12 * GIB))
    (lease,) = host.table.leases(1.0)
    assert (lease.measured_bytes, lease.verified, lease.card, lease.expires_in_s) == (9 * GIB, True, 1, 60.0)
    assert host.table.cards(0.0)[1].leased_bytes == 10 * GIB


def test_a_plan_changes_nothing() -> None:
    host = Host()
    plan = host.table.plan(PlanLease(model="whisper", bytes=10 * GIB), 0.0)
    assert (plan.outcome, plan.card_uuid) == ("grant", "GPU-b")
    assert host.held() == []


def test_after_a_restart_ttls_begin_anew_tokens_rise_and_old_tokens_hold() -> None:
    host = Host()
    old = host.granted("lease-1")
    watched = host.granted("lease-2", 2, owner=OWNER)
    host.now = 1_000.0
    host.samples = tuple(
        look(uuid=each.uuid, index=each.index, total=each.total_bytes, at=1_000.0) for each in TWO_CARDS
    )
    host.restart()
    assert host.table.owners() == {ProcessId(100, 5_000)}
    assert host.expire().facts == ()
    assert host.renew("lease-1", old.fencing_token).reply == LeaseRenewed(expires_in_s=60.0)
    new = host.granted("lease-3", 2)
    assert parse(new.fencing_token) == Fence(2, 1) > parse(watched.fencing_token)


def test_after_a_power_cut_that_took_the_leases_tokens_rise_all_the_same() -> None:
    host = Host()
    old = host.granted("lease-1")
    for table in ("leases", "leases_ended"):
        host.store.tables.pop(table, None)
    host.restart()
    assert host.granted("lease-2").fencing_token > old.fencing_token
    refusal(host.renew("lease-1", old.fencing_token), NotFound)


def test_a_spent_epoch_opens_the_next_before_it_grants() -> None:
    host = Host()
    spent = LeaseRecord(
        lease_id="lease-0",
        model="m",
        bytes=0,
        priority=50,
        card=0,
        card_uuid="GPU-a",
        fencing_token=Fence(1, COUNTERS - 1).token,
        owner=Owner(),
        identity="",
        idempotency_key="",
        body="",
        ttl_s=60.0,
        granted_at=AT,
        base_bytes=0,
    )
    host.table.apply(Granted(spent), 0.0)
    decision = host.admit("lease-1")
    assert decision.facts[0] == EpochOpened(2)
    assert isinstance(decision.reply, LeaseGranted)
    assert parse(decision.reply.fencing_token) == Fence(2, 1)


def test_a_token_that_does_not_rise_is_our_bug() -> None:
    host = Host()
    decision = host.admit("lease-1")
    with pytest.raises(ValueError, match="not above"):
        host.table.apply(decision.facts[-1], 0.0)


def test_ended_leases_are_forgotten_after_a_day_and_their_keys_are_free() -> None:
    host = Host()
    host.release("lease-1", host.granted("lease-1", key="k").fencing_token)
    host.now = REMEMBERED_S
    assert host.expire().facts == ()
    host.now = REMEMBERED_S + 1
    assert host.expire().facts == (Forgotten(("lease-1",)),)
    host.measure(look(at=host.now))
    assert host.granted("lease-1", key="k").lease_id == "lease-1"


def test_no_more_ended_leases_are_remembered_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.vram.lease_ending.REMEMBERED", 1)
    host = Host()
    for n in range(3):
        host.release(f"lease-{n}", host.granted(f"lease-{n}").fencing_token)
    assert host.expire().facts == (Forgotten(("lease-0", "lease-1")),)


def test_deciding_changes_nothing_until_the_facts_are_applied() -> None:
    host = Host()
    asked = AdmitLease(lease_id="lease-1", model="whisper", bytes=GIB)
    first = host.table.admit(asked, 0.0, AT)
    assert host.table.admit(asked, 0.0, AT) == first
    assert host.held() == []


def test_a_state_folds_a_renewal_of_a_watched_lease_without_a_deadline() -> None:
    host = Host()
    token = host.granted("lease-1", owner=OWNER).fencing_token
    host.renew("lease-1", token)
    assert host.table.leases(500.0)[0].expires_in_s == 60.0
    assert LeaseState("mainpc").pinned(Owner(pid=1, start_time=2)) == ProcessId(1, 2)


def test_what_the_table_learns_of_use_can_be_read() -> None:
    host = Host()
    host.granted("lease-1", 2, share=True)
    host.now = 10.0
    host.measure(*(msgspec.structs.replace(each, sampled_at=10.0) for each in TWO_CARDS))
    host.granted("lease-2", 2, share=True)
    assert host.table.demand.gap(ModelKey("whisper")) == 10.0
    assert host.table.horizon.seconds == 600.0
    host.commit(host.table.evict(["lease-2", "lease-1"], "asked to", 10.0, AT))
    assert host.table.horizon.seconds < 600.0
    assert host.table.missing() == {}
    host.table.measure([], {}, "NVML is gone")
    assert host.table.missing() == {"mainpc": "NVML is gone"}


def test_ten_thousand_leases_on_a_thousand_cards_are_decided_in_microseconds_per_card() -> None:
    table = LeaseTable("mainpc")
    for fact in table.open_epoch().facts:
        table.apply(fact, 0.0)
    table.measure([look(uuid=f"GPU-{n}", index=n) for n in range(1_000)], {})
    asked = [
        AdmitLease(lease_id=f"l{n}", model="m", bytes=2 * GIB, card_uuid=f"GPU-{n % 1_000}") for n in range(10_000)
    ]
    for one in asked[:200]:
        for fact in table.admit(one, 0.0, AT).facts:
            table.apply(fact, 0.0)
    began = time.process_time()
    for one in asked[200:300]:
        for fact in table.admit(one, 0.0, AT).facts:
            table.apply(fact, 0.0)
    assert (time.process_time() - began) / 100 < 0.1


def _fields(granted: LeaseGranted) -> dict[str, object]:
    return {name: getattr(granted, name) for name in granted.__struct_fields__}
