from __future__ import annotations

from common.store.memory import MemoryStore
from common.store.protocol import Durability
from pc2.error_bus.deliveries import Deliveries


def committed(deliveries: Deliveries, store: MemoryStore) -> None:
    store.commit(deliveries.rows(), Durability.FULL)


def test_a_senders_place_is_known_by_sender_and_epoch() -> None:
    deliveries = Deliveries()
    deliveries.counted_to("mainpc/reader", 2, 7)
    assert deliveries.seq("mainpc/reader", 2) == 7
    assert deliveries.seq("mainpc/reader", 1) == deliveries.seq("2/mainpc/reader", 2) == 0
    deliveries.counted_to("mainpc/reader", 2, 9)
    assert (deliveries.seq("mainpc/reader", 2), deliveries.senders) == (9, 1)


def test_an_id_is_its_agents_own() -> None:
    deliveries = Deliveries()
    deliveries.counted("reader", "1", "1:a")
    assert deliveries.group_of("reader", "1") == "1:a"
    assert deliveries.group_of("writer", "1") == deliveries.group_of("reader", "2") == ""


def test_what_is_known_outlives_a_restart_in_its_order() -> None:
    store, first = MemoryStore(), Deliveries(senders=2, ids=2)
    for sender in ("a", "b", "a"):
        first.counted_to(sender, 1, first.seq(sender, 1) + 1)
    for report_id in ("x", "y"):
        first.counted("reader", report_id, "1:a")
    committed(first, store)
    second = Deliveries(senders=2, ids=2)
    second.load(store)
    second.counted_to("c", 1, 1)
    second.counted("reader", "z", "1:a")
    assert [second.seq(sender, 1) for sender in "abc"] == [2, 0, 1]
    assert [bool(second.group_of("reader", report_id)) for report_id in "xyz"] == [False, True, True]
    committed(second, store)
    third = Deliveries(senders=2, ids=2)
    third.load(store)
    assert third.senders == 2
    assert {len(store.tables["error_senders"]), len(store.tables["error_report_ids"])} == {2}
    assert third.rows() == []


def test_an_empty_store_knows_nothing() -> None:
    deliveries = Deliveries()
    deliveries.load(MemoryStore())
    assert deliveries.senders == 0
    deliveries.counted_to("a", 1, 1)
    assert len(deliveries.rows()) == 1
    assert deliveries.rows() == []
