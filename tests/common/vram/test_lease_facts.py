from __future__ import annotations

import msgspec

from common.api.leases import Owner
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.vram.lease_facts import (
    EpochOpened,
    Fact,
    Forgotten,
    Granted,
    LeaseRecord,
    Renewed,
    ended,
    load,
    rows,
)


def record(lease_id: str, token: int) -> LeaseRecord:
    return LeaseRecord(
        lease_id=lease_id,
        model="whisper",
        bytes=5,
        priority=50,
        card=0,
        card_uuid="GPU-a",
        fencing_token=token,
        owner=Owner(pid=7, start_time=8, host="mainpc"),
        identity="local@mainpc",
        idempotency_key="k",
        body="[]",
        ttl_s=60.0,
        granted_at="2025-01-01T00:00:00Z",
        base_bytes=0,
    )


def stored(*happened: Fact) -> MemoryStore:
    store = MemoryStore()
    for fact in happened:
        store.commit(rows(fact), Durability.NORMAL)
    return store


def test_the_store_holds_the_present_and_gives_back_the_facts_that_made_it() -> None:
    first, second = record("lease-1", 11), record("lease-2", 12)
    gone = ended(first, "released")
    store = stored(EpochOpened(3), Granted(second), Granted(first), Renewed("lease-2"), gone)
    assert load(store) == [gone, Granted(second), EpochOpened(3)]


def test_facts_come_back_in_the_order_of_their_tokens() -> None:
    store = stored(Granted(record("a", 12)), Granted(record("b", 11)))
    assert [fact.record.lease_id for fact in load(store) if isinstance(fact, Granted)] == ["b", "a"]


def test_what_is_forgotten_leaves_nothing() -> None:
    one = record("lease-1", 11)
    assert load(stored(Granted(one), ended(one, "expired"), Forgotten(("lease-1",)))) == []


def test_facts_survive_a_journal() -> None:
    one = record("lease-1", 11)
    for fact in (EpochOpened(1), Granted(one), Renewed("lease-1"), ended(one, "owner-died"), Forgotten(("a", "b"))):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=Fact) == fact
