from __future__ import annotations

import pytest

from common.api.leases import LeaseGranted
from common.api.supervisor import RoomPromised
from common.api.words import Empty
from common.errors import NoCapacity, NotFound, StaleFence, TooLarge, Unavailable
from common.vram.amount import GIB
from common.vram.lease_table import LeaseTable
from tests.common.vram.table_lab import AT, LEFT, Bench, changes, receipts, refused


def test_a_share_joins_a_live_lease_and_takes_no_bytes() -> None:
    bench = Bench()
    parent = bench.grant("lease-1", 10, 1, in_use=False)
    before = bench.free("b")
    share = bench.grant("lease-2", 10, 2, share=True)
    assert (share.shares, share.bytes, share.card_uuid) == ("lease-1", 0, parent.card_uuid)
    assert share.fencing_token > parent.fencing_token
    assert bench.free("b") == before
    shown = bench.lease("lease-1")
    assert (shown.users, shown.in_use) == (1, True)


def test_a_share_is_not_had_of_another_config_host_card_or_model() -> None:
    bench = Bench()
    bench.grant("lease-1", 2, card_uuid="GPU-a", config="q4")
    for n, more in enumerate(
        ({"config": "q8"}, {"card_uuid": "GPU-b", "config": "q4"}, {"model": "x", "config": "q4"})
    ):
        assert bench.grant(f"other-{n}", 2, share=True, **more).shares == ""
    assert isinstance(bench.admit("far", 2, share=True, config="q4", host="pc2").reply, NotFound)
    assert bench.grant("near", 2, share=True, config="q4", host="mainpc", card_uuid="GPU-a").shares == "lease-1"


def test_who_shares_where_nobody_has_it_gets_a_lease_of_its_own_that_the_next_joins() -> None:
    bench = Bench()
    first = bench.grant("lease-1", share=True, in_use=False)
    assert (first.shares, first.bytes) == ("", 10 * GIB)
    assert bench.grant("lease-2", share=True).shares == "lease-1"


def test_a_share_of_a_share_is_a_share_of_the_lease() -> None:
    bench = Bench()
    bench.grant("lease-1", 4)
    bench.grant("lease-2", 4, share=True)
    assert bench.grant("lease-3", 4, share=True).shares == "lease-1"


def test_nobody_joins_a_lease_whose_ttl_has_run_out() -> None:
    bench = Bench()
    bench.grant("lease-1", 4, ttl_s=1.0)
    bench.now += 2.0
    assert bench.grant("lease-2", 4, share=True).shares == ""


def test_the_end_of_the_last_share_leaves_the_lease_idle_and_says_so() -> None:
    bench = Bench()
    bench.grant("lease-1", in_use=False)
    shares = [bench.grant(f"share-{n}", share=True) for n in range(2)]
    assert changes(bench.release(shares[0])) == [("released", "share-0")]
    assert changes(bench.release(shares[1])) == [("released", "share-1"), ("marked", "lease-1")]
    shown = bench.lease("lease-1")
    assert (shown.in_use, shown.users) == (False, 0)


def test_the_end_of_the_last_share_of_a_lease_in_use_says_nothing_of_it() -> None:
    bench = Bench()
    bench.grant("lease-1")
    assert changes(bench.release(bench.grant("share", share=True))) == [("released", "share")]


def test_shares_end_with_the_process_of_the_lease_they_share() -> None:
    bench = Bench()
    bench.grant("lease-1", 10, 1)
    share = bench.grant("share", 10, 2, share=True)
    decision = bench.end(1)
    assert sorted(changes(decision)) == [("owner-died", "lease-1"), ("owner-died", "share")]
    error = refused(bench.renew(share), StaleFence)
    assert "the lease lease-1 that it shared has ended" in error.message
    assert bench.held_ids() == []


@pytest.mark.parametrize("by_ttl", [False, True])
def test_what_others_use_outlives_its_holders_letting_go(by_ttl: bool) -> None:
    """Client A gives back, or forgets, what B is using."""
    bench = Bench()
    parent = bench.grant("lease-1", 10, ttl_s=10.0, in_use=False)
    share = bench.grant("share", 10, 2, share=True)
    decision = bench.wait(11.0) if by_ttl else bench.release(parent)
    assert changes(decision) == [("marked", "lease-1")]
    assert bench.free("b") < 2 * GIB
    assert bench.release(parent).reply == Empty()
    refused(bench.renew(parent), StaleFence)
    refused(bench.mark(parent, in_use=True), StaleFence)
    assert bench.grant("late", 10, share=True).shares == ""
    bench.restart()
    bench.wait(1_000.0)
    assert "lease-1" in bench.held_ids()
    assert ("released", "lease-1") in changes(bench.release(share))
    assert "lease-1" not in bench.held_ids()


def test_a_lease_and_its_shares_that_are_late_together_end_together() -> None:
    bench = Bench()
    bench.grant("lease-1", ttl_s=10.0)
    bench.grant("share", ttl_s=10.0, share=True)
    assert sorted(changes(bench.wait(11.0))) == [("expired", "lease-1"), ("expired", "share")]
    assert bench.held_ids() == []


def test_who_was_let_go_of_is_not_given_again_under_its_key() -> None:
    bench = Bench()
    parent = bench.grant("lease-1", 10, idempotency_key="k")
    bench.grant("share", 10, share=True)
    bench.release(parent)
    refused(bench.admit("lease-9", 10, idempotency_key="k"), StaleFence)


def test_several_cards_are_leased_all_or_none() -> None:
    bench = Bench(a=24, b=24, c=12)
    granted = bench.grant("lease-1", 10, 1, cards=2, host="mainpc")
    assert granted.card_uuids == ["GPU-c", "GPU-a"]
    assert [bench.free(card) for card in "abc"] == [14 * GIB - LEFT, 24 * GIB - LEFT, 2 * GIB - LEFT]
    refused(bench.admit("lease-2", 20, cards=2), NoCapacity)
    assert [bench.free(card) for card in "abc"] == [14 * GIB - LEFT, 24 * GIB - LEFT, 2 * GIB - LEFT]
    refused(bench.admit("lease-3", 20, cards=3), TooLarge)
    bench.use("a", 1, 6)
    bench.use("c", 1, 7)
    bench.look()
    shown = bench.lease("lease-1")
    assert (shown.card_uuids, shown.measured_bytes, shown.verified) == (["GPU-c", "GPU-a"], 7 * GIB, True)
    bench.restart()
    bench.end(1)
    bench.look()
    assert [bench.free(card) for card in "abc"] == [24 * GIB - LEFT, 24 * GIB - LEFT, 12 * GIB - LEFT]


def test_a_named_card_is_among_several() -> None:
    bench = Bench(a=24, b=24, c=12)
    assert bench.grant("lease-1", 10, cards=2, card_uuid="GPU-b").card_uuids == ["GPU-b", "GPU-c"]


def test_a_card_that_is_leased_is_not_given_alone_and_one_given_alone_not_leased() -> None:
    bench = Bench(a=24)
    first = bench.grant("lease-1", 2)
    assert "wants it to itself" in refused(bench.admit("alone", 2, exclusive=True), NoCapacity).message
    bench.release(first)
    alone = bench.grant("alone", 2, exclusive=True)
    assert bench.lease("alone").exclusive
    error = refused(bench.admit("lease-2", 2), NoCapacity)
    assert error.details["cards"][0]["reason"] == "one lease has it to itself"
    assert bench.grant("share", 2, share=True).shares == "alone"
    bench.release(alone)
    assert bench.table.candidates(bench.now)[0].exclusive


def test_pinned_leases_stay_within_their_share_of_a_card() -> None:
    bench = Bench(a=24)
    bench.grant("lease-1", 15, pinned=True)
    assert bench.lease("lease-1").pinned
    assert bench.table.cards(bench.now)[0].pinned_bytes == 15 * GIB
    error = refused(bench.admit("lease-2", 5, pinned=True), NoCapacity)
    assert "15.0 GiB are pinned already and 5.0 GiB needed; of 23.8 GiB at most 19.0 GiB may be" in error.message
    bench.grant("lease-3", 5)
    assert "may be pinned" in refused(bench.admit("lease-4", 20, pinned=True), TooLarge).message


def test_ram_disk_and_cores_are_leased_with_it() -> None:
    bench = Bench()
    assert "not been measured" in refused(bench.admit("lease-0", 1, ram_bytes=GIB), NoCapacity).message
    bench.with_host(ram=64)
    granted = bench.grant("lease-1", 1, ram_bytes=50 * GIB)
    assert bench.lease("lease-1").ram_bytes == 50 * GIB
    assert bench.table.host_memory().ram_leased_bytes == 50 * GIB
    error = refused(bench.admit("lease-2", 1, ram_bytes=10 * GIB), NoCapacity)
    assert "10.0 GiB of host RAM needed" in error.message
    too_large = refused(bench.admit("lease-3", 1, ram_bytes=60 * GIB), TooLarge)
    assert "60.0 GiB of host RAM needed; 51.2 GiB of 64.0 GiB may be leased" in too_large.message
    assert (
        "there is no card"
        in refused(bench.admit("lease-3", 1, ram_bytes=60 * GIB, card_uuid="GPU-x"), NotFound).message
    )
    bench.release(granted)
    bench.grant("lease-2", 1, ram_bytes=10 * GIB)


def test_a_host_without_the_models_files_takes_nothing_for_it() -> None:
    bench = Bench()
    asked = bench.ask("lease-1", files=["/m.gguf"])
    decision = bench.table.admit(asked, bench.now, AT, (), ["/m.gguf"])
    error = refused(decision, NotFound)
    assert error.message == "whisper needs 10.0 GiB; mainpc: it lacks /m.gguf"
    assert error.details["cards"][0]["reason"] == "it lacks /m.gguf"


def test_a_parked_lease_wakes_under_its_own_id_with_a_new_token() -> None:
    bench = Bench(a=24).with_host()
    old = bench.loaded("lease-1", 10, 1)
    bench.room("lease-2", 20)
    bench.parked("lease-1", 0.5, 9.5)
    bench.commit(bench.table.forget_room("lease-2"))
    bench.use("a", 1, 0.5)
    bench.look()
    assert bench.lease("lease-1").state == "parked"
    refused(bench.renew(old), StaleFence)
    refused(bench.mark(old, in_use=True), StaleFence)
    decision = bench.admit("lease-7", 10, 1, in_use=True)
    awake = decision.reply
    assert isinstance(awake, LeaseGranted)
    assert (awake.lease_id, awake.bytes) == ("lease-1", 10 * GIB)
    assert awake.fencing_token > old.fencing_token
    assert changes(decision) == [("granted", "lease-1")]
    assert [(each.decision, each.need_bytes) for each in receipts(decision)] == [("unparked", 10 * GIB - GIB // 2)]
    assert bench.grant("lease-7", 10, 1).fencing_token == awake.fencing_token
    bench.restart()
    assert bench.grant("lease-7", 10, 1).fencing_token == awake.fencing_token
    shown = bench.lease("lease-1")
    assert (shown.state, shown.ram_bytes, shown.in_use) == ("held", 0, True)


def test_a_parked_lease_is_asked_for_again_under_its_key() -> None:
    bench = Bench(a=24).with_host()
    old = bench.loaded("lease-1", 10, 1, idempotency_key="k")
    bench.room("lease-2", 20)
    bench.parked("lease-1")
    bench.commit(bench.table.forget_room("lease-2"))
    bench.use("a", 1, 0.5)
    bench.look()
    assert bench.grant("lease-9", 10, 1, idempotency_key="k", in_use=False).lease_id == "lease-1"
    assert bench.lease("lease-1").fencing_token > old.fencing_token


def test_a_parked_lease_wakes_only_for_its_owner() -> None:
    bench = Bench(a=24).with_host()
    bench.loaded("lease-1", 10, 1)
    bench.grant("lease-2", 2, model="tts", identity="anna", in_use=False)
    bench.promised("lease-3", 23)
    bench.parked("lease-1")
    bench.parked("lease-2", 0.1, 1.9)
    bench.commit(bench.table.forget_room("lease-3"))
    bench.use("a", 1, 0.5)
    bench.look()
    assert [lease.state for lease in bench.table.leases(bench.now)] == ["parked", "parked"]
    assert bench.grant("other", 2, 2, card_uuid="GPU-a").lease_id == "other"
    assert bench.grant("other-2", 1, model="tts", identity="ben").lease_id == "other-2"
    assert bench.grant("again", 2, model="tts", identity="anna").lease_id == "lease-2"


def test_what_wakes_needs_room_only_for_what_it_does_not_keep() -> None:
    bench = Bench(a=24).with_host()
    bench.loaded("lease-1", 10, 1, exclusive=True)
    bench.room("lease-2", 20)
    bench.parked("lease-1", 1.0)
    bench.use("a", 1, 1.0)
    bench.look()
    other = bench.grant("lease-2", 20, 2)
    assert "needs 9.0 GiB" in refused(bench.admit("lease-7", 10, 1, exclusive=True), NoCapacity).message
    bench.release(other)
    assert bench.grant("lease-7", 10, 1, exclusive=True).lease_id == "lease-1"


def test_a_plan_tells_of_shares_evictions_and_prices() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 20, 1)
    plan = bench.plan(5, share=True)
    assert (plan.outcome, plan.share, plan.card_uuid) == ("share", "lease-1", "GPU-a")
    plan = bench.plan(5)
    assert (plan.outcome, [each.lease_id for each in plan.victims if each.chosen]) == ("evict", ["lease-1"])
    assert plan.cards[0].price > 0
    assert "would go" in plan.cards[0].reason
    waits = bench.plan(5, priority=10)
    assert waits.outcome == "wait"
    assert waits.victims[0].reason == "priority 50 is above the request's 10"
    assert bench.plan(3).outcome == "grant"
    assert bench.plan(30).outcome == "never"
    assert bench.held_ids() == ["lease-1"]


def test_a_plan_tells_of_a_full_card_who_would_go_even_where_another_has_room() -> None:
    bench = Bench(a=24, b=12)
    bench.loaded("lease-1", 20, 1)
    plan = bench.plan(10)
    full, open_ = plan.cards
    assert (plan.outcome, plan.card_uuid, plan.victims) == ("grant", "GPU-b", [])
    assert (full.feasible, [each.lease_id for each in full.victims]) == (True, ["lease-1"])
    assert full.reason.startswith("whisper (20.0 GiB) would go")
    assert (open_.feasible, open_.victims) == (True, [])


def test_nobody_goes_for_a_pin_that_the_budget_for_pins_has_no_room_for() -> None:
    bench = Bench(a=24)
    bench.grant("lease-1", 18, 1, pinned=True)
    asked = bench.ask("lease-2", 4, 2, pinned=True)
    refused(bench.table.admit(asked, bench.now, AT), NoCapacity)
    refused(bench.table.evict_for(asked, bench.now, AT), NoCapacity)
    assert bench.plan(4, pinned=True).outcome == "wait"


def test_before_an_epoch_is_open_no_room_is_made() -> None:
    bench = Bench(a=24)
    bench.table = LeaseTable("mainpc")
    bench.watched = set()
    refused(bench.room("lease-1"), Unavailable)
    refused(bench.table.evict_for(bench.ask("lease-1"), bench.now, AT), Unavailable)


def test_a_lease_may_be_asked_for_with_one_priority_and_weigh_with_another() -> None:
    bench = Bench(a=12)
    bench.loaded("dear", 8, 1, priority=70)
    asked = bench.ask("urgent", 8, 2, priority=80, held_priority=20, in_use=False, model="plain")
    promised = bench.commit(bench.table.evict_for(asked, bench.now, AT)).reply
    assert isinstance(promised, RoomPromised)
    assert [each.lease_id for each in promised.victims if each.chosen] == ["dear"]
    bench.end(1)
    bench.look()
    bench.commit(bench.table.evicted(["dear"], [], 8 * GIB, bench.now, AT))
    assert isinstance(bench.commit(bench.table.admit(asked, bench.now, AT)).reply, LeaseGranted)
    assert bench.lease("urgent").priority == 20
    again = bench.commit(bench.table.admit(asked, bench.now, AT)).reply
    assert isinstance(again, LeaseGranted), "asked again it is the same"
    bench.use("a", 2, 8)
    bench.look()
    meek = bench.ask("meek", 8, 3, priority=30, model="other")
    assert isinstance(bench.commit(bench.table.evict_for(meek, bench.now, AT)).reply, RoomPromised)
