from __future__ import annotations

from common.api.leases import AcquireLease
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from pc2.resource_manager.intents import Intent, IntentForgotten, IntentRecorded, body, load, rows


def intent(lease_id: str, at: str, host: str = "mainpc") -> Intent:
    request = AcquireLease(model="whisper", bytes=5, idempotency_key="k")
    return Intent(lease_id=lease_id, host=host, card_uuid="GPU-a", identity="anna", request=request, at=at)


def test_intents_come_back_oldest_first_and_the_last_of_an_id_counts() -> None:
    store = MemoryStore()
    old, new, moved = intent("b", "2025-01-01"), intent("a", "2025-01-03"), intent("b", "2025-01-02", "pc2")
    for each in (new, old, moved):
        store.commit(rows(IntentRecorded(each)), Durability.NORMAL)
    assert load(store) == [moved, new]


def test_a_forgotten_intent_is_gone() -> None:
    store = MemoryStore()
    store.commit(rows(IntentRecorded(intent("a", "2025-01-01"))), Durability.NORMAL)
    store.commit(rows(IntentForgotten("a")), Durability.NORMAL)
    assert load(store) == []


def test_a_key_stands_for_all_of_the_request_but_its_patience() -> None:
    asked = AcquireLease(model="m", bytes=1, host="pc2")
    assert body(asked) == body(AcquireLease(model="m", bytes=1, host="pc2", wait_s=9))
    assert body(asked) != body(AcquireLease(model="m", bytes=1))
