from __future__ import annotations

import msgspec

from common.api.leases import LeaseGranted, ReleaseLease, RenewLease
from common.api.words import Empty
from common.errors import Conflict, StaleFence
from common.store.protocol import Change, Durability
from common.vram.amount import GIB
from common.vram.fencing import COUNTERS, Fence, parse
from common.vram.lease_facts import EndedLease, EpochOpened, Granted, LeaseRecord, QuarantineLifted, rows
from common.vram.lease_table import LeaseTable
from tests.common.vram.table_lab import AT, LEFT, RUNG, SLEEPER, Bench, changes, receipts, refused

OLD = {
    "lease_id",
    "model",
    "bytes",
    "priority",
    "card",
    "card_uuid",
    "fencing_token",
    "owner",
    "identity",
    "idempotency_key",
    "body",
    "ttl_s",
    "granted_at",
    "base_bytes",
}
"""The fields of a lease's row before leases could be shared, parked or evicted."""


def evicting(**more: object) -> Bench:
    """A card of 24 GiB on which `old` (20 GiB, process 1) has to go for `want`."""
    bench = Bench(a=24).with_host()
    bench.loaded("old", 20, 1, **more)
    bench.promised("want", 12)
    return bench


def test_an_evicted_lease_ends_with_its_rungs_on_the_receipt() -> None:
    bench = evicting(load_s=30.0)
    bench.use("a", 1, 0)
    bench.look()
    decision = bench.evicted("old", n=20)
    assert changes(decision) == [("evicted", "old")]
    (receipt,) = receipts(decision)
    assert (receipt.decision, receipt.rungs, receipt.details) == ("evicted", [RUNG], {"for": "want"})
    assert (receipt.expected_bytes, receipt.returned_bytes) == (20 * GIB, 20 * GIB)
    assert receipt.reason == "evicted: 20.0 GiB came back by unload; makes room for llama"
    assert receipt.lost_s > 0
    assert [each.lease_id for each in receipt.victims] == ["old"]
    assert isinstance(bench.admit("want", 12).reply, LeaseGranted)
    error = refused(bench.admit("old", 20, 1, in_use=False, load_s=30.0), Conflict)
    assert error.details["end"] == "evicted"


def test_the_receipt_of_an_eviction_whose_request_has_gone_still_tells_for_whom() -> None:
    bench = evicting()
    bench.commit(bench.table.forget_room("want"))
    (receipt,) = receipts(bench.evicted("old", n=20))
    assert (receipt.victims, receipt.details) == ([], {"for": "want"})


def test_no_victim_is_revived_and_none_ends_twice() -> None:
    bench = evicting()
    bench.end(1)
    for decision in (bench.evicted("old"), bench.parked("old"), bench.quarantined("old", n=1), bench.evicted("nobody")):
        assert (decision.facts, decision.instructions) == ((), ())
    bench.look()
    bench.loaded("held", 2, 2)
    assert bench.evicted("held").facts == ()
    assert bench.held_ids() == ["held"]


def test_a_sleeping_owner_keeps_what_is_left_on_the_card_and_its_weights_in_ram() -> None:
    bench = evicting(unload=SLEEPER)
    old = bench.lease("old").fencing_token
    bench.use("a", 1, 1.0)
    bench.look()
    decision = bench.parked("old", 1.0, 19.0)
    assert changes(decision) == [("parked", "old")]
    (receipt,) = receipts(decision)
    assert (receipt.decision, receipt.returned_bytes, receipt.expected_bytes) == ("parked", 19 * GIB, 20 * GIB)
    assert [(each.lease_id, each.chosen) for each in receipt.victims] == [("old", True)]
    shown = bench.lease("old")
    assert shown.reason == "asleep: 1.0 GiB stay on the card, 19.0 GiB in host RAM"
    assert (shown.state, shown.bytes, shown.declared_bytes, shown.ram_bytes) == ("parked", GIB, 20 * GIB, 19 * GIB)
    assert shown.fencing_token > old
    assert bench.table.host_memory().ram_leased_bytes == 19 * GIB
    assert bench.free("a", "want") == 23 * GIB - LEFT
    bench.restart()
    assert bench.lease("old").state == "parked"
    bench.end(1)
    assert bench.table.host_memory().ram_leased_bytes == 0


def test_of_one_that_went_to_sleep_before_a_look_what_it_leased_is_in_host_ram() -> None:
    bench = Bench(a=24).with_host()
    bench.loaded("old", 10, 1)
    bench.room("new", 20)
    bench.parked("old", 0.5, 0)
    assert (bench.lease("old").bytes, bench.lease("old").ram_bytes) == (GIB // 2, 19 * GIB // 2)


def test_a_model_that_sleeps_is_loaded_no_more() -> None:
    bench = Bench(a=24).with_host()
    bench.mark(bench.loaded("old", 20, 1, unload=SLEEPER), loaded=True)
    bench.promised("want", 12)
    assert bench.lease("old").loaded
    bench.parked("old", 1.0, 19.0)
    assert not bench.lease("old").loaded


def test_a_sleeping_lease_ends_when_its_holder_lets_go_of_it() -> None:
    bench = evicting(unload=SLEEPER)
    held = ReleaseLease(lease_id="old", fencing_token=bench.lease("old").fencing_token)
    bench.parked("old")
    bench.restart()
    refused(bench.table.renew(RenewLease(lease_id="old", fencing_token=held.fencing_token), bench.now, AT), StaleFence)
    decision = bench.commit(bench.table.release(held, bench.now, AT))
    assert (decision.reply, changes(decision)) == (Empty(), [("released", "old")])
    assert bench.held_ids() == []
    assert bench.table.host_memory().ram_leased_bytes == 0
    assert bench.commit(bench.table.release(held, bench.now, AT)).reply == Empty(), "once more is no error"
    bench.restart()
    assert bench.table.release(held, bench.now, AT).reply == Empty()


def test_a_lease_that_woke_is_not_let_go_of_under_the_token_from_before() -> None:
    bench = evicting(unload=SLEEPER)
    held = ReleaseLease(lease_id="old", fencing_token=bench.lease("old").fencing_token)
    bench.parked("old")
    bench.commit(bench.table.forget_room("want"))
    bench.use("a", 1, 0.5)
    bench.look()
    woken = bench.admit("again", 10, 1, card_uuid="GPU-a").reply
    assert isinstance(woken, LeaseGranted)
    assert woken.lease_id == "old"
    refused(bench.table.release(held, bench.now, AT), StaleFence)


def test_a_sleeper_that_has_to_go_entirely_goes_when_the_card_shows_it_and_not_by_its_holders_word() -> None:
    bench = evicting(unload=SLEEPER)
    held = ReleaseLease(lease_id="old", fencing_token=bench.lease("old").fencing_token)
    bench.parked("old")
    bench.commit(bench.table.evict(["old"], "for another", bench.now, AT))
    assert bench.lease("old").state == "expiring"
    decision = bench.commit(bench.table.release(held, bench.now, AT))
    assert (decision.reply, decision.facts) == (Empty(), ())


def test_a_lease_that_sleeps_alone_on_a_card_leaves_it_to_others() -> None:
    bench = evicting(exclusive=True)
    bench.parked("old", 1.0)
    bench.use("a", 1, 1)
    bench.look()
    assert isinstance(bench.admit("want", 12).reply, LeaseGranted)


def test_a_spent_epoch_is_opened_before_a_lease_sleeps() -> None:
    bench = evicting()
    record = bench.table._state.live["old"]
    bench.table._state.fence = Fence(1, COUNTERS - 1)
    decision = bench.parked("old")
    assert isinstance(decision.facts[0], EpochOpened)
    assert parse(bench.lease("old").fencing_token) == Fence(2, 1)
    assert record.fencing_token < bench.lease("old").fencing_token


def test_bytes_that_will_not_go_stay_under_their_owners_name_until_they_are_gone() -> None:
    """An unload that says done while its bytes stay; a second instance that frees only half."""
    bench = evicting()
    bench.use("a", 1, 9)
    bench.look()
    decision = bench.quarantined("old", n=9)
    assert changes(decision) == [("evicted", "old")]
    assert [each.decision for each in receipts(decision)] == ["evicted", "quarantined"]
    assert [(each.returned_bytes, each.rungs) for each in receipts(decision)] == [(11 * GIB, [RUNG]), (0, [RUNG])]
    assert "9.0 GiB would not go" in receipts(decision)[0].reason
    card = bench.table.cards(bench.now)[0]
    assert (card.quarantined_bytes, card.strangers, card.leased_bytes) == (9 * GIB, [], 0)
    assert bench.free("a", "want") == 15 * GIB - LEFT
    for _ in range(2):
        bench.wait(1.0)
        assert bench.table.cards(bench.now)[0].quarantined_bytes == 9 * GIB
        bench.restart()
    bench.use("a", 1, 2)
    bench.wait(1.0)
    assert bench.table.cards(bench.now)[0].quarantined_bytes == 2 * GIB
    bench.use("a", 1, 0)
    lifted = bench.wait(1.0)
    assert QuarantineLifted("old") in lifted.facts
    assert bench.table.owners() == frozenset()
    assert bench.free() == 24 * GIB - LEFT


def test_a_quarantine_ends_with_its_process() -> None:
    bench = evicting()
    bench.quarantined("old", n=20)
    bench.commit(bench.table.forget_room("want"))
    bench.grant("more", 2, 1)
    assert bench.free() == 2 * GIB - LEFT
    assert QuarantineLifted("old") in bench.end(1).facts
    bench.look()
    assert bench.held_ids() == []
    assert bench.table.cards(bench.now)[0].quarantined_bytes == 0


def test_what_its_owner_leases_beside_a_quarantine_is_counted_beside_it() -> None:
    bench = evicting()
    bench.use("a", 1, 9)
    bench.look()
    bench.quarantined("old", n=9)
    bench.commit(bench.table.forget_room("want"))
    bench.grant("more", 4, 1, card_uuid="GPU-a")
    bench.look()
    assert bench.free() == 11 * GIB - LEFT
    bench.use("a", 1, 13)
    bench.look()
    assert bench.free() == 11 * GIB - LEFT
    assert bench.lease("more").measured_bytes == 4 * GIB


def test_a_quarantine_on_a_card_that_hides_its_processes_lasts_while_bytes_have_no_name() -> None:
    bench = Bench(a=24)
    bench.grant("old", 10, 1, card_uuid="GPU-a", in_use=False)
    bench.use("a", 1, None)
    bench.nameless["GPU-a"] = 10 * GIB
    bench.look()
    bench.promised("want", 20)
    bench.quarantined("old", n=10)
    bench.wait(1.0)
    card = bench.table.cards(bench.now)[0]
    assert (card.quarantined_bytes, card.nameless_bytes) == (10 * GIB, 10 * GIB)
    assert bench.free("a", "want") == 14 * GIB - LEFT
    bench.nameless["GPU-a"] = 0
    assert QuarantineLifted("old") in bench.wait(1.0).facts


def test_a_quarantine_is_not_lifted_by_a_look_that_failed() -> None:
    bench = evicting()
    bench.quarantined("old", n=20)
    bench.look("NVML is gone")
    assert bench.commit(bench.table.expire(bench.now, AT)).facts == ()
    bench.restart()
    again = LeaseTable.restored("mainpc", bench.store, bench.now)
    assert again.expire(bench.now, AT).facts == ()
    assert again.owners() == bench.table.owners()


def test_bytes_of_nobody_known_are_in_no_quarantine() -> None:
    bench = Bench(a=24)
    old = bench.grant("old", 10, in_use=False)
    bench.use("a", 77, 10)
    bench.look()
    bench.promised("want", 13)
    decision = bench.quarantined("old", n=10)
    assert changes(decision) == [("evicted", "old")]
    assert bench.table.cards(bench.now)[0].quarantined_bytes == 0
    assert [each.pid for each in bench.table.cards(bench.now)[0].strangers] == [77]
    refused(bench.renew(old), StaleFence)


def test_after_a_restart_what_had_to_go_has_to_go_still() -> None:
    bench = evicting()
    bench.restart()
    assert bench.lease("old").state == "expiring"
    (order,) = (each.order for each in bench.table.pending_evictions())
    assert (order.lease_ids, order.for_lease, order.reason) == (("old",), "want", "makes room for llama")
    bench.promised("want", 12)
    assert [each.order.card_uuid for each in bench.table.pending_evictions()] == ["GPU-a"]


def test_rows_written_before_there_were_evictions_are_read() -> None:
    bench = Bench(a=24)
    bench.grant("lease-1", 10, 1)
    fact = Granted(bench.table._state.live["lease-1"])
    (change,) = rows(fact)
    assert change.value is not None
    version, fields = msgspec.msgpack.decode(change.value)
    new = set(LeaseRecord.__struct_fields__) - OLD
    older = {name: value for name, value in fields.items() if name not in new}
    bench.store.commit([Change("leases", "lease-1", msgspec.msgpack.encode([version, older]))], Durability.NORMAL)
    bench.restart()
    shown = bench.lease("lease-1")
    assert (shown.declared_bytes, shown.state, shown.in_use, shown.card_uuids) == (10 * GIB, "held", True, ["GPU-a"])
    past = EndedLease(lease_id="x", fencing_token=1, identity="", idempotency_key="", body="", end="released")
    assert past.why == "its holder gave it back"
