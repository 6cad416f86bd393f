from __future__ import annotations

import msgspec

from common.api.gpus import Card, CardsSampled
from common.api.leases import Lease, LeaseChanged, Leases, Owner
from common.api.words import Cursor
from common.vram.amount import GIB
from common.vram.ledger import capacity
from common.vram.placement import Candidate, Wish
from pc2.resource_manager.fleet import Fleet
from pc2.resource_manager.host_view import UNHEARD


def card(free: float = 20, uuid: str = "GPU-a", reason: str = "", host: str = "mainpc") -> Card:
    return Card(
        host=host,
        card=0,
        card_uuid=uuid,
        name="card",
        total_bytes=24 * GIB,
        free_bytes=0,
        leased_bytes=0,
        used_bytes=0,
        grantable_bytes=int(free * GIB),
        simulated=True,
        schedulable=not reason,
        reason=reason,
    )


def sampled(*cards: Card, problem: str = "") -> CardsSampled:
    return CardsSampled(host="mainpc", cards=list(cards), problem=problem)


def lease(lease_id: str, gib: float = 0.0) -> Lease:
    return Lease(
        lease_id=lease_id,
        model="m",
        bytes=int(gib * GIB),
        measured_bytes=0,
        verified=False,
        priority=50,
        host="mainpc",
        card=0,
        card_uuid="GPU-a",
        fencing_token=1,
        owner=Owner(),
        identity="",
        ttl_s=60,
        expires_in_s=60,
        granted_at="",
    )


def changed(lease_id: str, ended: bool = False, gib: float = 0.0) -> LeaseChanged:
    return LeaseChanged(change="released" if ended else "granted", lease=lease(lease_id, gib))


def listing(*lease_ids: str) -> Leases:
    return Leases(leases=[lease(each) for each in lease_ids], as_of=Cursor(epoch=1, seq=1))


def fleet_with(*cards: Card) -> Fleet:
    fleet = Fleet(["mainpc", "pc2"])
    fleet.back("mainpc")
    fleet.sampled("mainpc", sampled(*cards), 0.0)
    return fleet


def free(fleet: Fleet, now: float = 0.0) -> list[float]:
    return [each.grantable_bytes / GIB for each in fleet.candidates(now)]


def only(fleet: Fleet, now: float = 0.0) -> Candidate:
    (one,) = fleet.candidates(now)
    return one


def test_a_host_that_was_never_heard_is_missing_with_the_reason() -> None:
    fleet = Fleet(["mainpc"])
    assert fleet.missing(0.0) == {"mainpc": UNHEARD}
    assert not fleet.reachable("mainpc")
    fleet.back("mainpc")
    assert fleet.missing(0.0) == {"mainpc": "has not published its cards yet"}
    assert fleet.reachable("mainpc")
    assert not fleet.reachable("pc9")


def test_a_card_is_as_its_supervisor_published_it() -> None:
    fleet = fleet_with(card(20))
    assert only(fleet) == Candidate("mainpc", 0, "GPU-a", 20 * GIB, capacity(24 * GIB))
    assert fleet.missing(0.0) == {"pc2": UNHEARD}


def test_a_card_that_its_supervisor_closed_is_closed_here() -> None:
    assert only(fleet_with(card(20, reason="Xid 79"))).problem == "Xid 79"
    assert only(fleet_with(card(20, reason="Xid 79"))).grantable_bytes == 0


def test_a_lost_silent_or_failing_host_keeps_its_cards_closed() -> None:
    fleet = fleet_with(card(20))
    fleet.lost("mainpc", "link down")
    assert (only(fleet).problem, only(fleet).grantable_bytes) == ("link down", 0)
    fleet.back("mainpc")
    assert free(fleet, 5.0) == [20]
    assert only(fleet, 7.5).problem == "cards last heard of 7.5 s ago"
    fleet.sampled("mainpc", sampled(problem="NVML is gone"), 8.0)
    assert only(fleet, 8.0).problem == "NVML is gone"
    fleet.sampled("mainpc", sampled(), 9.0)
    assert fleet.candidates(9.0) == []


def test_of_a_model_whose_leases_ended_nothing_is_kept() -> None:
    fleet = fleet_with(card(20))
    for number in range(3):
        of_its_own = msgspec.structs.replace(lease("lease-1"), model=f"model-{number}")
        fleet.changed("mainpc", LeaseChanged(change="granted", lease=of_its_own), 0.0)
        assert fleet.sharable(f"model-{number}", "", "", "", 0.0) == of_its_own
        fleet.changed("mainpc", LeaseChanged(change="released", lease=of_its_own), 0.0)
    assert fleet._hosts["mainpc"].alike == {}


def test_a_pause_closes_a_host_for_a_moment() -> None:
    fleet = fleet_with(card(20))
    fleet.pause("mainpc", 2.0)
    assert only(fleet, 1.9).problem == "could not take a request just now"
    assert free(fleet, 2.0) == [20]


def test_a_request_finds_a_card_only_while_its_host_is_heard_and_does_not_rest() -> None:
    fleet = fleet_with(card(20))
    wish = Wish("new", GIB)

    def found(now: float) -> bool:
        return fleet.fit(wish, now, (), ()) is not None

    assert [found(now) for now in (0.0, 5.0, 5.1)] == [True, True, False]
    fleet.sampled("mainpc", sampled(card(20)), 6.0)
    fleet.pause("mainpc", 8.0)
    assert [found(now) for now in (6.0, 7.9, 8.0, 11.0, 11.1)] == [False, False, True, True, False]
    fleet.sampled("mainpc", sampled(card(20)), 12.0)
    assert found(12.0)
    fleet.lost("mainpc", "link down")
    assert not found(12.0)
    fleet.back("mainpc")
    assert found(12.0)


def test_where_room_is_being_made_no_more_is_made_until_that_is_over() -> None:
    fleet = fleet_with(card(1))
    fleet.changed(
        "mainpc", LeaseChanged(change="marked", lease=msgspec.structs.replace(lease("a", 8), in_use=False)), 0.0
    )
    wish = Wish("new", 6 * GIB)
    found = fleet.room(wish, 50, 0.0, (), ())
    assert found is not None
    assert found.victims == ("a",)
    fleet.claim("lease-1", found.card, 0, makes_room=True)
    assert fleet.room(wish, 50, 0.0, (), ()) is None
    fleet.unclaim("lease-1")
    assert fleet.room(wish, 50, 0.0, (), ()) == found


def test_a_grant_in_flight_counts_until_its_supervisor_showed_it_and_published_again() -> None:
    fleet = fleet_with(card(20))
    fleet.claim("lease-1", only(fleet), 8 * GIB)
    assert free(fleet) == [12]
    fleet.sampled("mainpc", sampled(card(20)), 1.0)
    assert free(fleet, 1.0) == [12]
    fleet.changed("mainpc", changed("lease-1"), 1.0)
    assert free(fleet, 1.0) == [12]
    fleet.sampled("mainpc", sampled(card(12)), 2.0)
    assert free(fleet, 2.0) == [12]


def test_a_lease_in_a_listing_shows_its_grant() -> None:
    fleet = fleet_with(card(20))
    fleet.claim("lease-1", only(fleet), 8 * GIB)
    fleet.listed("mainpc", listing("lease-1"), 1.0)
    fleet.sampled("mainpc", sampled(card(12)), 1.0)
    assert free(fleet, 1.0) == [12]


def test_a_grant_whose_event_was_lost_is_believed_shown_after_a_while() -> None:
    fleet = fleet_with(card(20))
    fleet.claim("lease-1", only(fleet), 8 * GIB)
    fleet.admitted("lease-1", 1.0)
    fleet.admitted("lease-2", 1.0)
    fleet.sampled("mainpc", sampled(card(12)), 5.0)
    assert free(fleet, 5.0) == [4]
    fleet.sampled("mainpc", sampled(card(12)), 6.5)
    assert free(fleet, 6.5) == [12]


def test_other_hosts_words_show_nothing_of_this_hosts_grant() -> None:
    fleet = fleet_with(card(20))
    fleet.claim("lease-1", only(fleet), 8 * GIB)
    fleet.changed("pc2", changed("lease-1"), 1.0)
    fleet.sampled("pc2", CardsSampled(host="pc2", cards=[]), 1.0)
    fleet.sampled("mainpc", sampled(card(20)), 1.0)
    assert free(fleet, 1.0) == [12]


def test_what_is_refused_is_in_flight_no_more() -> None:
    fleet = fleet_with(card(20))
    fleet.claim("lease-1", only(fleet), 30 * GIB)
    assert free(fleet) == [0]
    fleet.unclaim("lease-1")
    fleet.unclaim("lease-1")
    assert free(fleet) == [20]


def test_a_refusal_is_believed_until_the_cards_are_published_again() -> None:
    fleet = fleet_with(card(20))
    fleet.cap("mainpc", "GPU-a", 10 * GIB)
    fleet.cap("mainpc", "GPU-a", 15 * GIB)
    assert only(fleet).grantable_bytes == 10 * GIB - 1
    fleet.sampled("mainpc", sampled(card(20)), 1.0)
    assert free(fleet, 1.0) == [20]


def test_what_a_host_says_its_card_can_never_hold_is_believed_for_good() -> None:
    fleet = fleet_with(card(20))
    fleet.limit("mainpc", "GPU-a", 10 * GIB)
    fleet.limit("mainpc", "GPU-a", 12 * GIB)
    fleet.sampled("mainpc", sampled(card(20)), 1.0)
    assert only(fleet, 1.0).capacity_bytes == only(fleet, 1.0).grantable_bytes == 10 * GIB - 1


def test_a_lease_that_ended_before_its_card_was_published_again_is_in_flight_no_more() -> None:
    fleet = fleet_with(card(20))
    fleet.claim("lease-1", only(fleet), 8 * GIB)
    fleet.changed("mainpc", changed("lease-1", gib=8), 1.0)
    fleet.changed("pc2", changed("lease-1", ended=True, gib=8), 1.0)
    assert free(fleet) == [12]
    fleet.changed("mainpc", changed("lease-1", ended=True, gib=8), 1.0)
    assert free(fleet) == [20]


def test_the_bytes_of_a_shown_lease_are_free_once_it_ended_until_the_figures_say_so_themselves() -> None:
    fleet = fleet_with(card(20))
    fleet.changed("mainpc", changed("lease-1", gib=8), 1.0)
    fleet.sampled("mainpc", sampled(card(12)), 1.0)
    for _ in range(2):
        fleet.changed("mainpc", changed("lease-1", ended=True, gib=8), 1.0)
        assert free(fleet, 1.0) == [20]
    fleet.sampled("mainpc", sampled(problem="NVML is gone"), 1.5)
    fleet.sampled("mainpc", sampled(card(11)), 2.0)
    assert free(fleet, 2.0) == [11]


def test_a_refusal_is_believed_no_more_when_a_lease_on_that_card_ended() -> None:
    fleet = fleet_with(card(20))
    fleet.cap("mainpc", "GPU-a", 10 * GIB)
    fleet.changed("mainpc", changed("lease-1", ended=True), 1.0)
    assert free(fleet) == [20]


def test_of_a_lease_of_several_cards_that_ended_each_gets_its_bytes_back_and_is_believed_again() -> None:
    fleet = fleet_with(card(12), card(10, uuid="GPU-b"))
    both = msgspec.structs.replace(lease("wide", 8), card_uuids=["GPU-a", "GPU-b"])
    fleet.changed("mainpc", LeaseChanged(change="granted", lease=both), 1.0)
    fleet.sampled("mainpc", sampled(card(4), card(2, uuid="GPU-b")), 1.0)
    fleet.cap("mainpc", "GPU-b", GIB)
    fleet.changed("mainpc", LeaseChanged(change="released", lease=both), 1.0)
    assert free(fleet, 1.0) == [12, 10]


def test_a_lease_that_may_return_is_on_no_card() -> None:
    fleet = fleet_with(card(20))
    fleet.changed("mainpc", changed("lease-1", gib=8), 1.0)
    fleet.changed("mainpc", changed("lease-1", ended=True, gib=8), 2.0)
    fleet.changed("mainpc", LeaseChanged(change="may-return", lease=lease("lease-1", 8)), 3.0)
    assert fleet.leases() == []
    assert [site.residents for site in fleet.sites(3.0, GIB)] == [()]


def test_leases_and_cards_are_listed_by_host() -> None:
    fleet = fleet_with(card(20))
    fleet.listed("mainpc", listing("lease-1", "lease-2"), 1.0)
    fleet.changed("mainpc", changed("lease-3"), 1.0)
    fleet.changed("mainpc", changed("lease-1", ended=True), 1.0)
    fleet.changed("mainpc", changed("lease-1", ended=True), 1.0)
    assert [each.lease_id for each in fleet.leases()] == ["lease-2", "lease-3"]
    assert fleet.leases("pc2") == []
    assert [each.card_uuid for each in fleet.cards("mainpc")] == ["GPU-a"]
    assert fleet.cards("pc2") == []
    assert fleet.host_of("lease-3") == "mainpc"
    assert fleet.host_of("lease-1") == ""
