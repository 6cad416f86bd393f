"""What the planner decides where a request fits nowhere unless others go, or where it may share what lives already."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from common.api.decisions import PlanLease
from common.api.gpus import Card, CardsSampled
from common.api.leases import AcquireLease, Lease, LeaseChanged, LeaseGranted, Leases, Owner
from common.api.words import Cursor
from common.errors import NoCapacity, NotFound, TandemError, TooLarge
from common.vram.amount import GIB
from pc2.resource_manager.events import Admitted, Asked, CardsSeen, HostBack, LeaseSeen, OutOfTime, Withdrawn
from pc2.resource_manager.instructions import AskSupervisor, Progress, Reply, ReplyError, WithdrawAsk
from tests.pc2.resource_manager.bench import AT, Bench


def lease(name: str, host: str, gib: int, **more: Any) -> Lease:
    """An idle lease on the host's first card; `more` changes its fields."""
    plain = Lease(
        lease_id=f"lease-{name}",
        model=name,
        bytes=gib * GIB,
        measured_bytes=0,
        verified=True,
        priority=50,
        host=host,
        card=0,
        card_uuid=f"GPU-{host}",
        fencing_token=7,
        owner=Owner(),
        identity="ben",
        ttl_s=60.0,
        expires_in_s=60.0,
        granted_at=AT,
        in_use=False,
        idle_s=100.0,
    )
    return msgspec.structs.replace(plain, **more)


def card(host: str, index: int, total: int, free: float) -> Card:
    return Card(
        host=host,
        card=index,
        card_uuid=f"GPU-{host}" if index == 0 else f"GPU-{host}-{index}",
        name="card",
        total_bytes=total * GIB,
        free_bytes=0,
        leased_bytes=0,
        used_bytes=0,
        grantable_bytes=int(free * GIB),
        simulated=True,
    )


def bench(*leases: Lease, mainpc: float = 2, pc2: float = 1) -> Bench:
    """Two hosts whose cards are as good as full of these leases."""
    made = Bench()
    for host, free in (("mainpc", mainpc), ("pc2", pc2)):
        there = [each for each in leases if each.host == host]
        made.feed(HostBack(host, Leases(leases=there, as_of=Cursor(epoch=1, seq=0))))
        made.cards(host, free)
    return made


def ask(made: Bench, call: str, gib: float, wait: float = 60.0, **more: Any) -> None:
    made.feed(Asked(call, AcquireLease(model="new", bytes=int(gib * GIB), wait_s=wait, **more), "anna"))


def change(made: Bench, said: Lease, change: Literal["granted", "marked", "expiring", "evicted", "released"]) -> None:
    made.feed(LeaseSeen(said.host, LeaseChanged(change=change, lease=said)))


def test_an_idle_lease_goes_for_a_request_that_waits() -> None:
    made = bench(lease("old", "mainpc", 20))
    ask(made, "c1", 18)
    asked = made.one(AskSupervisor)
    assert (asked.host, asked.request.card_uuid, asked.request.wait_s) == ("mainpc", "GPU-mainpc", 60.0)
    assert made.one(Progress).progress.reason.startswith("room is being made on mainpc:0: old (20.0 GiB) would go")
    made.admit(asked)
    assert made.receipts() == ["granted"]


def test_a_plan_tells_of_a_card_that_is_full_who_would_go_even_where_another_has_room() -> None:
    made = bench(lease("old", "mainpc", 20), pc2=11)
    planned = made.planner.plan(PlanLease(model="new", bytes=8 * GIB), made.now)
    assert (planned.outcome, planned.host, planned.victims) == ("grant", "pc2", [])
    full, open_ = planned.cards
    assert (full.host, full.feasible) == ("mainpc", True)
    assert full.reason.startswith("old (20.0 GiB) would go")
    assert [victim.lease_id for victim in full.victims] == ["lease-old"]
    assert (open_.host, open_.victims) == ("pc2", [])


@pytest.mark.parametrize(
    ("gib", "host", "outcome"),
    [(8, "", "grant"), (18, "", "evict"), (8, "mainpc", "evict"), (12, "pc2", "never"), (11.7, "pc2", "wait")],
)
def test_what_a_load_would_come_to_is_what_its_plan_says(gib: float, host: str, outcome: str) -> None:
    made = bench(lease("old", "mainpc", 20), lease("used", "pc2", 1, in_use=True), pc2=10)
    asked = PlanLease(model="new", bytes=int(gib * GIB), host=host)
    planned, short = made.planner.plan(asked, made.now), made.planner.outlook(asked, made.now)
    assert short.outcome == planned.outcome == outcome
    chosen = [verdict.price for verdict in planned.cards if verdict.card_uuid == planned.card_uuid]
    assert [short.price] == (chosen or [0.0])


def test_a_plan_for_a_pin_beyond_the_budget_has_nobody_go() -> None:
    made = bench(lease("pinned", "mainpc", 18, pinned=True), lease("old", "pc2", 11))
    for host, gib in (("mainpc", 18), ("pc2", 0)):
        published = msgspec.structs.replace(card(host, 0, 24 if gib else 12, 5 if gib else 1), pinned_bytes=gib * GIB)
        made.feed(CardsSeen(host, CardsSampled(host=host, cards=[published])))
    planned = made.planner.plan(PlanLease(model="new", bytes=4 * GIB, pinned=True), made.now)
    assert (planned.outcome, planned.host) == ("evict", "pc2")
    assert (
        made.planner.plan(PlanLease(model="new", bytes=4 * GIB, pinned=True, host="mainpc"), made.now).outcome == "wait"
    )


def test_one_that_does_not_wait_is_told_what_waiting_would_bring() -> None:
    made = bench(lease("old", "mainpc", 20))
    ask(made, "c1", 18, wait=0.0)
    error = made.error(NoCapacity)
    assert "with wait_s room can be made: on mainpc:0 old (20.0 GiB) would go" in error.message
    assert [victim["lease_id"] for victim in error.details["victims"]] == ["lease-old"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"in_use": True}, "in use"),
        ({"users": 1}, "in use"),
        ({"pinned": True}, "pinned"),
        ({"priority": 51}, "priority 51 is above the request's 50"),
        ({"state": "expiring"}, "expiring already"),
        ({"state": "parked"}, "holds no bytes here"),
    ],
)
def test_what_may_not_go_is_named_with_the_reason(more: dict[str, Any], why: str) -> None:
    made = bench(lease("old", "mainpc", 20, **more))
    ask(made, "c1", 18, wait=0.0)
    error = made.error(NoCapacity)
    assert "with wait_s" not in error.message
    assert [victim["reason"] for victim in error.details["victims"]] == [why]


def test_a_lease_that_falls_idle_goes_for_whoever_waits() -> None:
    busy = lease("old", "mainpc", 20, in_use=True)
    made = bench(busy)
    ask(made, "c1", 18)
    assert made.all(AskSupervisor) == []
    change(made, msgspec.structs.replace(busy, in_use=False, idle_s=0.0), "marked")
    assert made.one(AskSupervisor).request.wait_s == 60.0
    ask(made, "c2", 18)
    assert made.one(Progress).progress.position == 1, "who is asked for waits in no line any more"


def test_on_one_card_room_is_made_for_one_at_a_time() -> None:
    made = bench(lease("a", "mainpc", 10), lease("b", "mainpc", 11))
    ask(made, "c1", 12)
    first = made.one(AskSupervisor)
    ask(made, "c2", 12)
    assert made.all(AskSupervisor) == []
    made.refuse(first, NoCapacity("no"))
    assert made.all(AskSupervisor) == []
    made.cards("mainpc", 2)
    assert [each.host for each in made.all(AskSupervisor)] == ["mainpc"]


def test_the_card_whose_dearest_victim_costs_least_is_chosen() -> None:
    wanted = lease("wanted", "pc2", 10, gap_s=20.0, idle_s=5.0, load_s=30.0)
    unwanted = [lease(f"old{each}", "mainpc", 7, gap_s=3_600.0, idle_s=3_000.0, load_s=5.0) for each in range(3)]
    made = bench(wanted, *unwanted)
    ask(made, "c1", 10)
    assert made.one(AskSupervisor).host == "mainpc"


def test_what_loads_already_counts_against_its_card() -> None:
    alike = {"gap_s": 600.0, "idle_s": 600.0, "load_s": 10.0}
    loading = lease("loading", "mainpc", 2, in_use=True, load_s=500.0)
    made = bench(lease("a", "mainpc", 10, **alike, loaded=True), loading, lease("b", "pc2", 10, **alike, loaded=True))
    ask(made, "c1", 9)
    assert made.one(AskSupervisor).host == "pc2"


def test_what_its_supervisor_refused_is_not_asked_again_before_it_says_more() -> None:
    made = bench(lease("old", "mainpc", 20))
    ask(made, "c1", 18)
    made.refuse(made.one(AskSupervisor), NoCapacity("it is in use by now"))
    assert made.all(AskSupervisor) == []
    made.wait(1.0)
    assert made.all(AskSupervisor) == []
    made.cards("mainpc", 2)
    assert made.one(AskSupervisor).attempt == 2


def test_a_caller_whose_time_ends_while_room_is_made_is_told_what_is_lacking_and_the_eviction_is_called_off() -> None:
    made = bench(lease("old", "mainpc", 20))
    ask(made, "c1", 15)
    asked = made.one(AskSupervisor)
    made.feed(OutOfTime("c1"))
    refused = made.error(NoCapacity)
    assert (refused.details["need_bytes"], refused.details["position"]) == (15 * GIB, 1)
    assert made.one(WithdrawAsk) == WithdrawAsk(asked.request.lease_id)


def test_a_caller_that_leaves_calls_the_eviction_off() -> None:
    made = bench(lease("old", "mainpc", 20))
    ask(made, "c1", 18)
    asked = made.one(AskSupervisor)
    made.feed(Withdrawn("c1"))
    assert made.one(WithdrawAsk) == WithdrawAsk(asked.request.lease_id)
    made.wait(1.0)
    again = made.one(AskSupervisor)
    assert (again.request.lease_id, again.request.wait_s) == (asked.request.lease_id, 0.0)
    made.refuse(again, NoCapacity("no room"))
    assert made.kept() == []


def test_one_that_leaves_while_a_plain_ask_is_under_way_calls_nothing_off() -> None:
    made = Bench()
    made.ask("c1", 10)
    made.feed(Withdrawn("c1"))
    assert made.all(WithdrawAsk) == []


def test_a_lease_that_lives_is_shared_and_takes_no_bytes() -> None:
    living = lease("new", "pc2", 9, in_use=True)
    made = bench(lease("other", "pc2", 1, in_use=True), living)
    ask(made, "c1", 10, wait=0.0, share=True)
    asked = made.one(AskSupervisor)
    assert (asked.host, asked.request.card_uuid, asked.request.share) == ("pc2", "GPU-pc2", True)
    ask(made, "c2", 1, wait=0.0)
    assert made.one(AskSupervisor).host == "pc2"
    ask(made, "c3", 9, wait=0.0, share=True, host="pc2")
    assert made.one(AskSupervisor).request.share
    ask(made, "c4", 9, wait=0.0, share=True, host="mainpc")
    made.error(NoCapacity)


def test_what_a_share_takes_says_nothing_of_what_the_model_needs() -> None:
    made = bench(lease("new", "pc2", 10, in_use=True))
    ask(made, "c1", 10, wait=0.0, share=True)
    asked = made.one(AskSupervisor)
    granted = LeaseGranted(asked.request.lease_id, "pc2", 0, "GPU-pc2", 77, 60.0, 0, shares="lease-new")
    made.feed(Admitted(asked.request.lease_id, granted))
    assert made.one(Reply).granted.shares == "lease-new"
    assert made.planner.plan(PlanLease(model="new", bytes=10 * GIB), made.now).need_bytes == 10 * GIB


@pytest.mark.parametrize(
    "more", [{"state": "expiring"}, {"shares": "lease-x"}, {"config": "other"}, {"card_uuid": "GPU-2"}]
)
def test_what_cannot_be_shared_is_not(more: dict[str, Any]) -> None:
    made = bench(lease("new", "pc2", 10, **{"in_use": True, **more}))
    ask(made, "c1", 10, wait=0.0, share=True, card_uuid="GPU-pc2")
    made.error(NoCapacity)


def test_whoever_waits_shares_what_comes_to_life() -> None:
    made = bench()
    ask(made, "c1", 10, share=True)
    assert made.all(AskSupervisor) == []
    living = lease("new", "pc2", 10, in_use=True)
    change(made, living, "granted")
    change(made, living, "marked")
    assert made.one(AskSupervisor).host == "pc2"


def test_a_lease_whose_holder_let_go_of_it_is_shared_with_nobody_else() -> None:
    made = bench(lease("new", "mainpc", 20, users=1, given_back=True))
    asked = PlanLease(model="new", bytes=10 * GIB, share=True)
    assert made.planner.plan(asked, made.now).outcome == "wait"
    ask(made, "c1", 10, share=True)
    assert made.all(AskSupervisor) == []
    ask(made, "c2", 2, share=True)
    assert made.one(AskSupervisor).request.bytes == 2 * GIB


@pytest.mark.parametrize("error", [NoCapacity("full", retry_after_ms=1_000), TooLarge("the card is too small")])
def test_a_lease_that_its_host_lets_nobody_share_any_more_is_tried_once(error: TandemError) -> None:
    made = bench(lease("new", "mainpc", 20, users=1))
    ask(made, "c1", 10, share=True)
    made.refuse(made.one(AskSupervisor), error)
    assert made.all(AskSupervisor) == []
    made.cards("mainpc", 2)
    assert made.all(AskSupervisor) == []
    change(made, lease("other", "pc2", 1, model="new"), "granted")
    change(made, lease("other", "pc2", 1, model="new"), "marked")
    assert made.one(AskSupervisor).host == "pc2"


def test_a_host_that_lacks_the_files_is_not_asked_again() -> None:
    made = Bench()
    ask(made, "c1", 5, wait=0.0, files=["/m.gguf"])
    made.refuse(made.one(AskSupervisor), NotFound("lacks", cards=[], barred={"pc2": "it lacks /m.gguf"}))
    second = made.one(AskSupervisor)
    assert second.host == "mainpc"
    made.refuse(second, NotFound("lacks", cards=[], barred={"mainpc": "it lacks /m.gguf"}))
    assert made.error(NotFound).message.endswith("pc2: it lacks /m.gguf; mainpc: it lacks /m.gguf")


def test_what_no_host_may_ever_lease_beside_its_cards_is_too_large_and_limits_no_card() -> None:
    made = Bench()
    ask(made, "c1", 5, wait=0.0, ram_bytes=60 * GIB)
    made.refuse(
        made.one(AskSupervisor), TooLarge("RAM", need_bytes=5 * GIB, barred={"pc2": "51 of 64 GiB may be leased"})
    )
    made.refuse(made.one(AskSupervisor), TooLarge("RAM", need_bytes=5 * GIB, barred={"mainpc": "102 of 128 GiB"}))
    error = made.error(TooLarge)
    assert error.message.endswith("pc2: 51 of 64 GiB may be leased; mainpc: 102 of 128 GiB")
    ask(made, "c2", 5, wait=0.0)
    assert made.one(AskSupervisor).host == "pc2"


def test_a_host_that_lacks_the_files_makes_no_room() -> None:
    made = bench(lease("new", "pc2", 10), lease("old", "mainpc", 20), pc2=11)
    ask(made, "c1", 10, share=True)
    made.refuse(made.one(AskSupervisor), NotFound("lacks", cards=[], barred={"pc2": "it lacks /m.gguf"}))
    assert made.one(AskSupervisor).host == "mainpc"


def test_several_cards_are_had_of_one_host_and_its_supervisor_says_which() -> None:
    made = Bench()
    made.feed(
        CardsSeen("mainpc", CardsSampled(host="mainpc", cards=[card("mainpc", 0, 24, 20), card("mainpc", 1, 24, 1)]))
    )
    on_second = lease("old", "mainpc", 22, card=1, card_uuid="GPU-mainpc-1", card_uuids=["GPU-mainpc-1"])
    change(made, on_second, "granted")
    ask(made, "c1", 10, cards=2)
    asked = made.one(AskSupervisor)
    assert (asked.host, asked.request.card_uuid, asked.request.wait_s) == ("mainpc", "", 60.0)
    ask(made, "c2", 10, cards=3, wait=0.0)
    made.error(TooLarge)


def test_for_a_card_to_itself_all_on_it_go_or_none() -> None:
    made = bench(lease("a", "mainpc", 2), lease("b", "mainpc", 2), mainpc=20, pc2=0)
    ask(made, "c1", 15, exclusive=True)
    assert "a (2.0 GiB), b (2.0 GiB) would go" in made.one(Progress).progress.reason
    busy = bench(lease("a", "mainpc", 2), lease("b", "mainpc", 2, in_use=True), mainpc=20, pc2=0)
    ask(busy, "c1", 15, wait=0.0, exclusive=True)
    assert "with wait_s" not in busy.error(NoCapacity).message


def test_a_card_that_an_idle_lease_has_to_itself_can_be_had() -> None:
    made = bench(lease("a", "mainpc", 2, exclusive=True), mainpc=20, pc2=0)
    ask(made, "c1", 15)
    assert made.one(AskSupervisor).request.wait_s == 60.0


def test_the_plan_says_who_would_go_or_be_shared() -> None:
    made = bench(lease("old", "mainpc", 20))
    planned = made.planner.plan(PlanLease(model="new", bytes=18 * GIB), made.now)
    assert (planned.outcome, planned.host, planned.card_uuid) == ("evict", "mainpc", "GPU-mainpc")
    assert [(victim.lease_id, victim.chosen) for victim in planned.victims] == [("lease-old", True)]
    assert {verdict.card_uuid: verdict.feasible for verdict in planned.cards} == {"GPU-mainpc": True, "GPU-pc2": False}
    shared = made.planner.plan(PlanLease(model="old", bytes=18 * GIB, share=True), made.now)
    assert (shared.outcome, shared.share, shared.host) == ("share", "lease-old", "mainpc")
    waits = made.planner.plan(PlanLease(model="new", bytes=18 * GIB, priority=10, share=True), made.now)
    assert (waits.outcome, [victim.reason for victim in waits.victims]) == (
        "wait",
        ["priority 50 is above the request's 10"],
    )


def test_what_is_evicted_teaches_how_far_to_look_ahead() -> None:
    old = lease("old", "mainpc", 20, idle_s=7_000.0)
    made = bench(old)
    before = made.planner.plan(PlanLease(model="new", bytes=18 * GIB), made.now).victims[0].want
    change(made, msgspec.structs.replace(old, lease_id="lease-x", state="expiring"), "expiring")
    after = made.planner.plan(PlanLease(model="new", bytes=18 * GIB), made.now).victims[0].want
    assert after > before


def test_a_lease_is_the_idler_the_longer_nothing_is_said_of_it() -> None:
    made = bench(lease("old", "mainpc", 20, gap_s=10.0, idle_s=0.0))
    first = made.planner.plan(PlanLease(model="new", bytes=18 * GIB), made.now).victims[0]
    made.now += 3.0
    later = made.planner.plan(PlanLease(model="new", bytes=18 * GIB), made.now).victims[0]
    assert later.idle_s == first.idle_s + 3.0


def test_whoever_waits_too_long_for_room_is_refused_with_what_was_weighed() -> None:
    made = bench(lease("old", "mainpc", 20, in_use=True))
    ask(made, "c1", 18, wait=2.0)
    made.wait(2.1)
    assert [error.error.code for error in made.all(ReplyError)] == ["no_capacity"]
