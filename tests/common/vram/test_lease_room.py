from __future__ import annotations

import pytest

from common.api.leases import LeaseGranted
from common.api.supervisor import RoomPromised
from common.errors import Conflict, NoCapacity, NotFound, StaleFence, TooLarge
from common.vram.amount import GIB
from common.vram.cards import ProcessId
from common.vram.lease_facts import Expiring, Reserved
from tests.common.vram.table_lab import (
    AT,
    LEFT,
    SLEEPER,
    TICK,
    UNLOADER,
    Bench,
    changes,
    orders,
    owner,
    receipts,
    refused,
)


def test_room_is_made_by_the_cheapest_that_are_enough_all_at_once() -> None:
    bench = Bench(a=24)
    bench.loaded("dear", 10, 1, load_s=100.0)
    bench.loaded("cheap", 10, 2, model="tts", load_s=1.0, unload=UNLOADER, identity="anna")
    chosen, decision = bench.promised("want", 12)
    assert chosen == ["cheap"]
    assert [fact.lease_id for fact in decision.facts if isinstance(fact, Expiring)] == ["cheap"]
    assert changes(decision) == [("expiring", "cheap")]
    (order,) = orders(decision)
    assert (order.lease_ids, order.models, order.model, order.identity) == (("cheap",), ("tts",), "tts", "anna")
    assert (order.owner, order.card_uuid, order.for_lease) == (ProcessId(2, TICK), "GPU-a", "want")
    assert (order.expected_bytes, order.held_bytes, order.free_bytes) == (10 * GIB, 10 * GIB, 4 * GIB)
    assert (order.unload, order.residual_bytes, order.keep_bytes, order.spared) == (UNLOADER, 0, 0, "")
    assert order.reason == "makes room for llama"
    (receipt,) = receipts(decision)
    assert (receipt.decision, receipt.lease_id, receipt.details) == ("expiring", "cheap", {"for": "want"})
    assert [each.lease_id for each in receipt.victims] == ["cheap", "dear"]
    assert receipt.expected_bytes == 10 * GIB
    assert 0 < receipt.lost_s < 1.0
    assert isinstance(decision.reply, RoomPromised)
    assert decision.reply.within_s > 10.0


def test_the_bytes_are_kept_for_their_request_and_for_nobody_else() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 20, 1)
    bench.promised("want", 12)
    bench.end(1)
    bench.look()
    assert bench.free() == 12 * GIB - LEFT
    refused(bench.admit("other", 15), NoCapacity)
    assert bench.free("a", "want") == 24 * GIB - LEFT
    card = bench.table.cards(bench.now)[0]
    assert (card.reserved_bytes, card.reservations) == (12 * GIB, {"want": 12 * GIB})
    decision = bench.admit("want", 12)
    assert isinstance(decision.reply, LeaseGranted)
    assert [each.lease_id for each in receipts(decision)[0].victims] == ["old"]
    assert bench.table.reserved() == {}
    assert bench.free() == 12 * GIB - LEFT


def test_a_card_kept_for_another_is_its_own_where_room_was_made_for_it() -> None:
    bench = Bench(a=24)
    bench.promised("want", 12)
    asked = bench.ask("want", 12)
    assert isinstance(bench.table.admit(asked, bench.now, AT, {"GPU-a"}).reply, LeaseGranted)
    refused(bench.table.admit(bench.ask("other", 2), bench.now, AT, {"GPU-a"}), NoCapacity)


def test_of_two_reservations_the_earlier_is_served_first() -> None:
    bench = Bench(a=24)
    bench.loaded("old-1", 10, 1)
    bench.loaded("old-2", 10, 2)
    assert len(bench.promised("first", 10)[0]) == 1
    assert len(bench.promised("second", 10)[0]) == 1
    gone = next(each.lease_id for each in bench.table.leases(bench.now) if each.state == "expiring")
    bench.end({"old-1": 1, "old-2": 2}[gone])
    bench.look()
    refused(bench.admit("second", 10), NoCapacity)
    assert isinstance(bench.admit("first", 10).reply, LeaseGranted)


def test_asked_again_it_answers_as_before_and_the_time_starts_anew() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 20, 1)
    _, first = bench.promised("want", 12, patience_s=10.0)
    bench.wait(8.0)
    again = bench.room("want", 12, patience_s=10.0)
    assert again.reply == first.reply
    assert (changes(again), orders(again)) == ([], [])
    assert [fact.until for fact in again.facts if isinstance(fact, Reserved)] == [bench.now + 10.0]
    bench.wait(8.0)
    assert "want" in bench.table.reserved()
    bench.wait(3.0)
    assert bench.table.reserved() == {}


def test_where_what_goes_is_no_longer_enough_more_goes() -> None:
    """A stranger takes memory between the plan and the load."""
    bench = Bench(a=24)
    bench.loaded("old-1", 10, 1, load_s=1.0)
    bench.loaded("old-2", 10, 2, load_s=100.0)
    assert bench.promised("want", 12)[0] == ["old-1"]
    bench.use("a", 77, 3)
    bench.look()
    chosen, decision = bench.promised("want", 12)
    assert chosen == ["old-2"]
    assert changes(decision) == [("expiring", "old-2")]


def test_who_would_find_room_by_itself_is_only_kept_it() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 10, 1)
    chosen, decision = bench.promised("want", 5)
    assert (chosen, changes(decision)) == ([], [])
    assert "want" in bench.table.reserved()
    assert bench.room("old").reply == RoomPromised(victims=[], within_s=0.0)


def test_room_that_cannot_be_made_is_refused_with_every_price() -> None:
    bench = Bench(a=24)
    bench.loaded("mine", 10, 1, priority=90)
    bench.loaded("pinned", 5, 2, pinned=True)
    bench.grant("used", 5, 3, card_uuid="GPU-a")
    error = refused(bench.room("want", 20), NoCapacity)
    reasons = {each["lease_id"]: each["reason"] for each in error.details["victims"]}
    assert reasons == {
        "mine": "priority 90 is above the request's 50",
        "pinned": "pinned",
        "used": "in use",
    }
    assert all("price" in each for each in error.details["victims"])
    assert bench.table.reserved() == {}
    refused(bench.room("want", 24), TooLarge)
    refused(bench.room("want", 1, card="x"), NotFound)
    granted = bench.grant("over", 1)
    bench.release(granted)
    refused(bench.room("over", 1), Conflict)


def test_a_closed_card_makes_no_room() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 20, 1)
    bench.odd["GPU-a"] = {"health": "97 °C"}
    bench.look()
    assert "97 °C" in refused(bench.room("want", 20), NoCapacity).message


def test_nothing_is_admitted_to_a_lease_that_has_to_go() -> None:
    """An eviction target that gets a new request while expiring."""
    bench = Bench(a=24)
    old = bench.loaded("old", 20, 1)
    bench.promised("want", 20)
    for decision in (
        bench.renew(old),
        bench.mark(old, in_use=True),
        bench.mark(old, loaded=True),
        bench.admit("old", 20, 1, in_use=False),
    ):
        assert "expiring: makes room for llama" in refused(decision, StaleFence).message
    refused(bench.admit("share", 20, 2, share=True), NoCapacity)
    bench.restart()
    refused(bench.renew(old), StaleFence)
    assert [each.order.lease_ids for each in bench.table.pending_evictions()] == [("old",)]


def test_what_its_holder_gives_back_on_the_way_ends_when_the_card_shows_it() -> None:
    bench = Bench(a=24)
    old = bench.loaded("old", 20, 1)
    bench.promised("want", 20)
    decision = bench.release(old)
    assert decision.facts == ()
    assert bench.held_ids() == ["old"]
    bench.use("a", 1, 0)
    bench.evicted("old", n=20)
    assert bench.held_ids() == []


def test_without_a_known_process_giving_back_ends_it_at_once() -> None:
    bench = Bench(a=24)
    old = bench.grant("old", 20, in_use=False)
    _, decision = bench.promised("want", 20)
    assert (orders(decision)[0].owner, orders(decision)[0].held_bytes) == (None, None)
    assert changes(bench.release(old)) == [("released", "old")]


def test_an_owner_without_a_verb_goes_whole_or_not_at_all() -> None:
    bench = Bench(a=24)
    bench.loaded("one", 8, 1)
    bench.grant("two", 8, 1, model="tts", card_uuid="GPU-a", in_use=False)
    bench.use("a", 1, 16)
    bench.look()
    chosen, decision = bench.promised("want", 12)
    assert len(chosen) == 1
    assert sorted(change for change in changes(decision)) == [("expiring", "one"), ("expiring", "two")]
    (order,) = orders(decision)
    assert (sorted(order.lease_ids), order.spared, order.expected_bytes) == (["one", "two"], "", 16 * GIB)


def test_a_process_that_others_need_is_not_ended_for_one_lease() -> None:
    bench = Bench(a=24)
    bench.loaded("one", 8, 1)
    bench.grant("two", 8, 1, model="tts", card_uuid="GPU-a")
    bench.use("a", 1, 16)
    bench.look()
    error = refused(bench.room("want", 12), NoCapacity)
    reasons = {each["lease_id"]: each["reason"] for each in error.details["victims"]}
    assert reasons["one"] == "its process also serves two, and has no verb to give this one back alone"
    assert reasons["two"] == "in use"


def test_an_owner_with_a_verb_gives_back_one_lease_and_its_process_is_spared() -> None:
    bench = Bench(a=24)
    bench.loaded("one", 8, 1, unload=UNLOADER)
    bench.grant("two", 8, 1, model="tts", card_uuid="GPU-a")
    bench.use("a", 1, 16)
    bench.look()
    chosen, decision = bench.promised("want", 12)
    assert chosen == ["one"]
    (order,) = orders(decision)
    assert order.spared == "its process also serves tts (two)"
    assert (order.keep_bytes, order.held_bytes, order.expected_bytes) == (8 * GIB, 16 * GIB, 8 * GIB)


def test_models_of_one_owner_are_asked_for_one_by_one() -> None:
    bench = Bench(a=24)
    bench.loaded("one", 10, 1, unload=UNLOADER)
    bench.grant("two", 10, 1, model="tts", card_uuid="GPU-a", in_use=False, unload=UNLOADER)
    bench.use("a", 1, 20)
    bench.look()
    _, decision = bench.promised("want", 20)
    assert sorted(order.lease_ids for order in orders(decision)) == [("one",), ("two",)]
    assert [order.spared for order in orders(decision)] == ["", ""]
    assert [order.keep_bytes for order in orders(decision)] == [10 * GIB, 10 * GIB]


def test_an_owner_that_can_sleep_keeps_something_where_its_weights_find_room() -> None:
    bench = Bench(a=24).with_host(ram=64)
    bench.loaded("old", 20, 1, unload=SLEEPER)
    _, decision = bench.promised("want", 12)
    (order,) = orders(decision)
    assert (order.residual_bytes, order.not_parked) == (2 * GIB, "")


def test_an_owner_that_can_sleep_is_told_why_it_must_not() -> None:
    bench = Bench(a=24).with_host(ram=8)
    bench.loaded("old", 20, 1, unload=SLEEPER)
    _, decision = bench.promised("want", 12)
    (order,) = orders(decision)
    assert order.residual_bytes == 0
    assert order.not_parked.startswith("cannot be parked: 20.0 GiB of host RAM needed")


def test_whether_weights_fit_into_ram_is_asked_again_as_they_are_about_to_go_there() -> None:
    bench = Bench(a=24).with_host(ram=64)
    bench.loaded("old", 20, 1, unload=SLEEPER)
    assert bench.table.not_parked(["old"]) == ""
    assert "20.0 GiB of host RAM needed" not in bench.table.not_parked(["old"], 20 * GIB)
    assert bench.table.not_parked(["old"], 40 * GIB).startswith("cannot be parked: 60.0 GiB of host RAM needed")
    bench.table.resources.ram_now(10 * GIB)
    assert bench.table.not_parked(["old"]).startswith("cannot be parked: 20.0 GiB of host RAM needed")
    assert bench.table.not_parked(["gone"]) == ""


def test_what_sleeps_already_gives_back_the_rest() -> None:
    bench = Bench(a=24).with_host()
    bench.loaded("old", 20, 1, unload=SLEEPER)
    bench.promised("want", 12)
    bench.parked("old", 4.0, 16)
    bench.use("a", 1, 4)
    bench.look()
    bench.grant("want", 12, 2)
    chosen, decision = bench.promised("more", 11)
    assert chosen == ["old"]
    assert orders(decision)[0].not_parked == "asleep already"


def test_a_request_that_wants_a_card_to_itself_sends_everyone_away() -> None:
    bench = Bench(a=24)
    bench.loaded("one", 4, 1)
    bench.loaded("two", 4, 2)
    assert sorted(bench.promised("want", 2, exclusive=True)[0]) == ["one", "two"]
    refused(bench.room("other", 1), NoCapacity)
    refused(bench.admit("other", 1), NoCapacity)
    assert bench.table.candidates(bench.now)[0].exclusive
    bench.end(1)
    bench.end(2)
    bench.look()
    assert isinstance(bench.admit("want", 2, exclusive=True).reply, LeaseGranted)
    bench.release(bench.grant("want", 2, exclusive=True))
    bench.grant("empty", 0, card_uuid="GPU-a")
    refused(bench.room("alone", 2, exclusive=True), NoCapacity)


def test_a_card_that_one_has_to_itself_is_left_by_that_one() -> None:
    bench = Bench(a=24)
    bench.loaded("alone", 2, 1, exclusive=True)
    assert bench.promised("want", 2)[0] == ["alone"]
    refused(bench.room("again", 2, exclusive=True), NoCapacity)


def test_a_request_of_the_hosts_own_line_finds_the_card_where_it_costs_least() -> None:
    bench = Bench(a=24, b=24)
    bench.loaded("dear", 20, 1, "a", load_s=500.0)
    bench.loaded("cheap", 20, 2, "b", model="tts", load_s=1.0)
    asked = bench.ask("want", 12)
    decision = bench.commit(bench.table.evict_for(asked, bench.now, AT, 5.0))
    assert changes(decision) == [("expiring", "cheap")]
    assert bench.table.reserved() == {"want": {"GPU-b"}}
    other = bench.commit(bench.table.evict_for(bench.ask("more", 12), bench.now, AT, 5.0, queued={"GPU-a": 1.0}))
    assert changes(other) == [("expiring", "dear")]


def test_of_many_cards_those_longest_unused_are_weighed_first_and_the_others_where_these_do_not_do() -> None:
    bench = Bench(**{f"c{n:02}": 24.0 for n in range(20)})
    for n in range(20):
        bench.loaded(f"lease-{n}", 20, n + 1, f"c{n:02}", priority=20 if n == 19 else 80)
    bench.grant("share", 20, 90, share=True, card_uuid="GPU-c00", priority=80)
    decision = bench.commit(bench.table.evict_for(bench.ask("want", 12, priority=50), bench.now, AT))
    assert changes(decision) == [("expiring", "lease-19")]
    urgent = bench.commit(bench.table.evict_for(bench.ask("urgent", 12, priority=90), bench.now, AT))
    assert changes(urgent) == [("expiring", "lease-1")]


def test_of_many_cards_the_one_whose_lease_was_just_used_is_not_among_the_first() -> None:
    bench = Bench(**{f"c{n:02}": 24.0 for n in range(20)})
    leases = [bench.loaded(f"lease-{n}", 20, n + 1, f"c{n:02}", load_s=0.1 if n == 1 else 9.0) for n in range(20)]
    bench.wait(5.0)
    for used in (True, False):
        bench.mark(leases[1], in_use=used)
    decision = bench.commit(bench.table.evict_for(bench.ask("want", 12), bench.now, AT))
    assert changes(decision) == [("expiring", "lease-0")]


def test_of_many_cards_full_of_strangers_the_few_with_leases_are_weighed() -> None:
    bench = Bench(**{f"c{n:02}": 24.0 for n in range(20)})
    bench.loaded("unseen", 20, 1, "c00")
    bench.loaded("old", 20, 2, "c01")
    for n in range(2, 20):
        bench.use(f"c{n:02}", 100 + n, 20)
    del bench.totals["GPU-c00"]
    bench.restart()
    decision = bench.commit(bench.table.evict_for(bench.ask("want", 12), bench.now, AT))
    assert changes(decision) == [("expiring", "old")]


def test_who_finds_room_by_now_sends_nobody_away() -> None:
    bench = Bench(a=24, b=24)
    bench.loaded("old", 20, 1)
    decision = bench.commit(bench.table.evict_for(bench.ask("want", 12), bench.now, AT))
    assert (changes(decision), bench.table.reserved()) == ([], {"want": {"GPU-b"}})


def test_room_on_several_cards_is_made_on_all_or_none() -> None:
    bench = Bench(a=24, b=24)
    bench.loaded("one", 20, 1, "a")
    bench.loaded("two", 20, 2, "b", model="tts")
    asked = bench.ask("want", 12, cards=2)
    decision = bench.commit(bench.table.evict_for(asked, bench.now, AT))
    assert sorted(changes(decision)) == [("expiring", "one"), ("expiring", "two")]
    assert bench.table.reserved() == {"want": {"GPU-a", "GPU-b"}}
    assert bench.commit(bench.table.evict_for(asked, bench.now, AT)).reply == decision.reply
    bench.end(1)
    bench.end(2)
    bench.look()
    assert sorted(bench.grant("want", 12, cards=2).card_uuids) == ["GPU-a", "GPU-b"]
    refused(bench.commit(bench.table.evict_for(bench.ask("x", 20, cards=2), bench.now, AT)), NoCapacity)
    refused(bench.commit(bench.table.evict_for(bench.ask("y", 30), bench.now, AT)), TooLarge)


def test_room_on_several_cards_may_be_asked_for_card_by_card() -> None:
    bench = Bench(a=24, b=24)
    bench.loaded("one", 20, 1, "a")
    bench.loaded("two", 20, 2, "b", model="tts")
    assert bench.promised("want", 12, "a")[0] == ["one"]
    assert bench.promised("want", 12, "b")[0] == ["two"]
    assert bench.promised("want", 12, "b")[0] == ["two"]
    assert bench.promised("want", 12, "a")[0] == ["one"]
    bench.end(1)
    bench.end(2)
    bench.look()
    assert len(bench.grant("want", 12, cards=2).card_uuids) == 2
    assert bench.table.reserved() == {}


def test_what_sleeps_is_woken_by_others_going_and_never_goes_for_itself() -> None:
    bench = Bench(a=24).with_host()
    bench.loaded("old", 20, 1)
    bench.promised("want", 12)
    bench.parked("old", 2.0)
    bench.use("a", 1, 2)
    bench.look()
    bench.loaded("want", 12, 2, model="tts")
    decision = bench.commit(bench.table.evict_for(bench.ask("again", 20, 1), bench.now, AT))
    assert changes(decision) == [("expiring", "want")]
    bench.end(2)
    bench.look()
    assert bench.grant("again", 20, 1).lease_id == "old"


def test_a_victim_that_is_never_idle_drains() -> None:
    """Steady traffic on a lease: nobody new is let in, and it goes when its last use ends."""
    bench = Bench(a=24)
    bench.loaded("old", 20, 1)
    share = bench.grant("share", 20, 2, share=True)
    asked = bench.ask("want", 12, model="tts")
    refused(bench.table.evict_for(asked, bench.now, AT), NoCapacity)
    decision = bench.commit(bench.table.evict_for(asked, bench.now, AT, draining=True))
    assert (changes(decision), orders(decision)) == ([("expiring", "old")], [])
    refused(bench.admit("share-2", 20, 3, share=True), NoCapacity)
    assert bench.table.pending_evictions() == []
    ended = bench.release(share)
    assert changes(ended) == [("released", "share"), ("marked", "old")]
    assert [order.lease_ids for order in orders(ended)] == [("old",)]
    assert [each.order.lease_ids for each in bench.table.pending_evictions()] == [("old",)]


@pytest.mark.parametrize("by_release", [False, True])
def test_a_drained_lease_goes_when_its_holder_says_that_it_is_idle(by_release: bool) -> None:
    bench = Bench(a=24)
    old = bench.grant("old", 20, 1, unload=UNLOADER)
    bench.commit(bench.table.evict_for(bench.ask("want", 12, model="tts"), bench.now, AT, draining=True))
    refused(bench.mark(old, in_use=True), StaleFence)
    decision = bench.release(old) if by_release else bench.mark(old, in_use=False)
    assert [order.lease_ids for order in orders(decision)] == [("old",)]
    assert bench.held_ids() == ["old"]


def test_a_drained_lease_that_is_shared_goes_after_both() -> None:
    bench = Bench(a=24)
    old = bench.grant("old", 20, 1)
    share = bench.grant("share", 20, 2, share=True)
    bench.commit(bench.table.evict_for(bench.ask("want", 12, model="tts"), bench.now, AT, draining=True))
    assert orders(bench.release(old)) == []
    assert [order.lease_ids for order in orders(bench.release(share))] == [("old",)]


def test_an_owner_without_a_verb_goes_when_none_of_its_leases_is_used_any_more() -> None:
    bench = Bench(a=24)
    used = bench.grant("used", 10, 1, card_uuid="GPU-a", priority=20)
    bench.loaded("idle", 10, 1, model="tts", priority=20)
    bench.use("a", 1, 20)
    bench.look()
    first = bench.commit(bench.table.evict(["used"], "asked to", bench.now, AT))
    assert sorted(changes(first)) == [("expiring", "idle"), ("expiring", "used")]
    assert orders(first) == bench.table.pending_evictions() == []
    (order,) = orders(bench.mark(used, in_use=False))
    assert (sorted(order.lease_ids), order.spared) == (["idle", "used"], "")


def test_what_an_owner_without_a_verb_leased_last_goes_with_what_goes_already() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 10, 1)
    _, first = bench.promised("want", 16)
    (fact,) = (fact for fact in first.facts if isinstance(fact, Expiring))
    assert (fact.lease_id, fact.for_lease, fact.reason) == ("old", "want", "makes room for llama")
    bench.commit(bench.table.forget_room("want"))
    bench.grant("new", 8, model="tts", in_use=False, card_uuid="GPU-a")
    bench.commit(bench.table.rebind("new", owner(1), bench.now, AT))
    decision = bench.commit(bench.table.evict(["new"], "asked to", bench.now, AT))
    assert changes(decision) == [("expiring", "new")]
    assert [sorted(order.lease_ids) for order in orders(decision)] == [["new", "old"]]


def test_draining_sends_nobody_away_whose_process_a_pinned_lease_needs() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 10, 1)
    bench.grant("pinned", 8, 1, model="tts", card_uuid="GPU-a", pinned=True, in_use=False)
    asked = bench.ask("want", 12, model="x")
    error = refused(bench.table.evict_for(asked, bench.now, AT, draining=True), NoCapacity)
    reasons = {each["lease_id"]: each["reason"] for each in error.details["victims"]}
    assert "its process also serves pinned" in reasons["old"]
    assert bench.table.evict(["old"], "asked to", bench.now, AT).facts == ()


def test_room_is_forgotten_when_nobody_wants_it_and_the_victims_go_all_the_same() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 20, 1)
    bench.promised("want", 12)
    bench.commit(bench.table.forget_room("want"))
    assert bench.table.forget_room("want").facts == ()
    assert bench.table.reserved() == {}
    assert bench.lease("old").state == "expiring"


def test_a_request_refused_for_good_keeps_no_room() -> None:
    bench = Bench(a=24)
    bench.promised("want", 12)
    refused(bench.admit("want", 30), TooLarge)
    assert bench.table.reserved() == {}


def test_leases_are_sent_away_for_a_stranger_or_an_operator() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 10, 1)
    share = bench.grant("share", 10, 2, share=True)
    decision = bench.commit(bench.table.evict(["share", "nobody"], "a game", bench.now, AT, yielded=True))
    assert decision.facts == ()
    bench.release(share)
    decision = bench.commit(bench.table.evict(["old"], "makes way for game", bench.now, AT, yielded=True))
    assert [each.decision for each in receipts(decision)] == ["yielded"]
    assert [order.reason for order in orders(decision)] == ["makes way for game"]
    assert bench.commit(bench.table.evict(["old"], "again", bench.now, AT)).facts == ()
