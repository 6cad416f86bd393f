"""What has gone wrong in this field, on the table itself; the scenarios of evictions by rungs are the ladder's."""

from __future__ import annotations

import pytest

from common.api.leases import LeaseGranted
from common.errors import NoCapacity, StaleFence
from common.vram.amount import GIB
from tests.common.vram.table_lab import LEFT, Bench, changes, refused


def test_a_victim_that_gets_a_new_request_while_expiring_goes_all_the_same() -> None:
    bench = Bench(a=24)
    old = bench.loaded("old", 20, 1)
    bench.promised("want", 20)
    refused(bench.mark(old, in_use=True), StaleFence)
    refused(bench.admit("share", 20, 1, share=True), NoCapacity)
    bench.use("a", 1, 0)
    bench.look()
    bench.evicted("old", n=20)
    assert bench.grant("want", 20, 2).lease_id == "want"


def test_an_owner_that_dies_during_the_wait_for_its_memory_leaves_it_to_whom_it_was_promised() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 20, 1)
    bench.promised("want", 20)
    assert changes(bench.end(1)) == [("owner-died", "old")]
    refused(bench.admit("other", 20), NoCapacity)
    bench.look()
    refused(bench.admit("other", 20), NoCapacity)
    assert bench.grant("want", 20, 2).lease_id == "want"


def test_free_memory_that_falls_while_it_should_rise_is_no_success_and_never_wraps() -> None:
    bench = Bench(a=24)
    bench.loaded("old", 20, 1)
    bench.promised("want", 20)
    bench.use("a", 77, 4)
    bench.wait(1.0)
    assert bench.free("a", "want") == 0
    bench.use("a", 1, 0)
    bench.use("a", 77, 22)
    bench.wait(1.0)
    bench.evicted("old", n=20)
    assert bench.free("a", "want") == 2 * GIB - LEFT
    refused(bench.admit("want", 20), NoCapacity)


def test_two_runners_on_one_card_are_two_leases() -> None:
    bench = Bench(a=24)
    bench.loaded("one", 10, 1)
    bench.loaded("two", 10, 2, model="tts")
    assert bench.free() == 4 * GIB - LEFT
    assert bench.promised("want", 12)[0] in (["one"], ["two"])
    assert [lease.state for lease in bench.table.leases(bench.now)].count("expiring") == 1


def test_a_stranger_that_takes_memory_between_plan_and_load_is_seen_and_frees_it_again() -> None:
    bench = Bench(a=24)
    assert bench.plan(20).outcome == "grant"
    bench.use("a", 77, 10)
    bench.look()
    refused(bench.admit("lease-1", 20), NoCapacity)
    bench.use("a", 77, 0)
    bench.look()
    assert bench.grant("lease-1", 20).lease_id == "lease-1"


def test_concurrent_claims_against_one_stale_measurement_never_add_up_to_more_than_it() -> None:
    bench = Bench(a=24)
    replies = [bench.admit(f"lease-{n}", 10, n + 1).reply for n in range(4)]
    assert [isinstance(each, LeaseGranted) for each in replies] == [True, True, False, False]


def test_a_renewal_never_revives_an_expired_lease() -> None:
    bench = Bench(a=24)
    old = bench.grant("lease-1", 20, ttl_s=5.0)
    bench.now += 5.0
    refused(bench.renew(old), StaleFence)
    bench.look()
    assert bench.grant("lease-2", 20).lease_id == "lease-2"


def test_a_failed_probe_is_not_free_memory_and_ends_nothing() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 20, 1)
    bench.odd["GPU-a"] = {"problem": "its memory could not be read", "free_bytes": 24 * GIB}
    for _ in range(5):
        assert bench.wait(20.0).facts == ()
    assert bench.free() == 0
    assert "could not be read" in refused(bench.admit("lease-2", 2), NoCapacity).message
    assert bench.held_ids() == ["lease-1"]


def test_a_heartbeat_without_a_sample_ages_no_lease() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 20, 1)
    for _ in range(5):
        bench.now += 100.0
        bench.look("the driver does not answer")
        assert bench.commit(bench.table.expire(bench.now, "")).facts == ()
    assert bench.held_ids() == ["lease-1"]


def test_what_was_measured_and_leased_counts_once() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 20, 1)
    assert bench.free() == 4 * GIB - LEFT


@pytest.mark.parametrize("listed", [True, False])
def test_where_processes_are_hidden_leases_are_unverified_and_the_cards_figures_count(listed: bool) -> None:
    bench = Bench(a=24)
    bench.grant("lease-1", 10, 1, card_uuid="GPU-a")
    bench.nameless["GPU-a"] = 10 * GIB
    bench.odd["GPU-a"] = {} if listed else {"processes": None}
    bench.look()
    shown = bench.lease("lease-1")
    assert (shown.verified, shown.measured_bytes) == (False, 0)
    assert bench.free() == 14 * GIB - LEFT
    bench.nameless["GPU-a"] = 14 * GIB
    bench.wait(1.0)
    bench.wait(1.0)
    assert bench.free() == 10 * GIB - LEFT


@pytest.mark.parametrize("wrong", [0.7, 1.3])
def test_an_estimate_wrong_by_a_third_counts_at_the_larger_figure(wrong: float) -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 10, 1)
    bench.use("a", 1, 10 * wrong)
    bench.wait(1.0)
    assert bench.free() == 24 * GIB - max(10 * GIB, int(10 * wrong * GIB)) - LEFT


def test_a_wake_that_fails_half_way_is_no_grant_and_its_leak_is_counted() -> None:
    bench = Bench(a=24).with_host()
    bench.loaded("old", 20, 1)
    bench.promised("want", 12)
    bench.parked("old", 1.0)
    bench.commit(bench.table.forget_room("want"))
    bench.use("a", 1, 9)
    bench.wait(1.0)
    assert bench.lease("old").state == "parked"
    assert bench.free() == 15 * GIB - LEFT
    bench.wait(1.0)
    assert changes(bench.commit(bench.table.corrections(bench.now, ""))) == [("corrected", "old")]


@pytest.mark.parametrize("unlisted", [False, True])
def test_the_leases_of_a_card_that_fell_off_the_bus_end_after_a_grace(unlisted: bool) -> None:
    bench = Bench(a=24, b=12)
    bench.loaded("lost", 20, 1)
    bench.grant("share", 20, 2, share=True)
    bench.grant("both", 2, 3, cards=2)
    bench.loaded("well", 2, 4, "b", model="tts")
    lose(bench, unlisted)
    assert bench.wait(10.0).facts == ()
    bench.look("the driver does not answer")
    assert bench.wait(10.0).facts == ()
    decision = bench.wait(21.0)
    assert sorted(changes(decision)) == [("card-lost", "both"), ("card-lost", "lost"), ("card-lost", "share")]
    assert bench.held_ids() == ["well"]
    assert not bench.table.cards(bench.now)[0].schedulable
    find(bench)
    bench.use("a", 1, 0)
    bench.look()
    assert bench.free() == 24 * GIB - LEFT


def test_a_card_that_comes_back_in_time_keeps_its_leases() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 20, 1)
    for _ in range(3):
        lose(bench, unlisted=False)
        bench.wait(20.0)
        find(bench)
        bench.wait(1.0)
    assert bench.held_ids() == ["lease-1"]


def test_a_card_in_ill_health_takes_nothing_new_and_keeps_what_it_has() -> None:
    bench = Bench(a=24)
    bench.loaded("lease-1", 10, 1)
    bench.odd["GPU-a"] = {"health": "XID 48: double-bit ECC error"}
    bench.wait(100.0)
    card = bench.table.cards(bench.now)[0]
    assert (card.schedulable, card.reason, card.measured_bytes) == (False, "XID 48: double-bit ECC error", 10 * GIB)
    assert "XID 48" in refused(bench.admit("lease-2", 2), NoCapacity).message
    assert bench.held_ids() == ["lease-1"]


def test_both_hosts_asked_for_the_same_bytes_are_two_tables_with_a_card_each() -> None:
    mainpc, pc2 = Bench(a=24), Bench(a=24)
    assert mainpc.grant("lease-1", 20).lease_id == pc2.grant("lease-1", 20).lease_id
    refused(mainpc.admit("lease-2", 20), NoCapacity)


def lose(bench: Bench, unlisted: bool) -> None:
    if unlisted:
        bench.totals.pop("GPU-a", None)
    else:
        bench.odd["GPU-a"] = {"problem": "the card has fallen off the bus", "lost": True}


def find(bench: Bench) -> None:
    bench.odd.pop("GPU-a", None)
    bench.totals = {"GPU-a": 24 * GIB, **bench.totals}
