"""What the fleet keeps ready tells of any request the very card that the long way would, whatever was said before."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.api.gpus import Card, CardsSampled
from common.api.leases import Lease, LeaseChanged, Leases, Owner
from common.api.words import Cursor
from common.vram.amount import GIB
from common.vram.eviction import Resident
from common.vram.placement import Candidate, Wish, pick
from common.vram.ranking import Ranked, Site, in_question, rank
from pc2.resource_manager import making_room, residents
from pc2.resource_manager.fleet import Fleet

HOSTS = ("mainpc", "pc2")
UUIDS = tuple(f"GPU-{host}-{index}" for host in HOSTS for index in range(2))
IDS = tuple(f"lease-{number}" for number in range(8))
GIBS = st.integers(0, 48).map(lambda halves: halves * GIB // 2)

hosts = st.sampled_from(HOSTS)
uuids = st.sampled_from(UUIDS)
rarely = st.sampled_from([False, False, False, True])


def host_of(uuid: str) -> str:
    return uuid.split("-")[1]


@st.composite
def leases(draw: st.DrawFn) -> Lease:
    lease_id = draw(st.sampled_from(IDS))
    uuid = UUIDS[IDS.index(lease_id) % len(UUIDS)]
    wide = IDS.index(lease_id) == 0
    first = [each for each in UUIDS if host_of(each) == host_of(uuid)] if wide else [uuid]
    return Lease(
        lease_id=lease_id,
        model=draw(st.sampled_from("abc")),
        bytes=draw(GIBS),
        measured_bytes=draw(st.sampled_from([0, 0, 9 * GIB])),
        verified=True,
        priority=draw(st.sampled_from([50, 50, 70])),
        host=host_of(uuid),
        card=0,
        card_uuid=uuid,
        fencing_token=1,
        owner=Owner(),
        identity="",
        ttl_s=60,
        expires_in_s=60,
        granted_at="",
        state=draw(st.sampled_from(["held", "held", "held", "expiring", "parked"])),
        in_use=draw(rarely),
        loaded=draw(st.sampled_from([True, True, False])),
        pinned=draw(rarely),
        exclusive=draw(rarely),
        shares=draw(st.sampled_from(["", "", "", "lease-9"])) if lease_id == IDS[-1] else "",
        card_uuids=first,
        idle_s=draw(st.sampled_from([0.0, 10.0, 600.0, 7_000.0])),
        gap_s=draw(st.sampled_from([20.0, 900.0, 3_600.0])),
        load_s=draw(st.sampled_from([0.0, 4.0, 9.0])),
    )


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    return Wish(
        "new",
        draw(GIBS),
        draw(st.sampled_from(["", "", "mainpc"])),
        draw(st.sampled_from(["", "", "", UUIDS[1]])),
        draw(st.sampled_from([1, 1, 1, 2])),
        draw(rarely),
        draw(rarely),
    )


def cards(host: str, frees: list[int], reasons: list[str]) -> list[Card]:
    return [
        Card(
            host=host,
            card=index,
            card_uuid=f"GPU-{host}-{index}",
            name="card",
            total_bytes=24 * GIB,
            free_bytes=0,
            leased_bytes=0,
            used_bytes=0,
            grantable_bytes=free,
            simulated=True,
            schedulable=not reason,
            reason=reason,
            pinned_bytes=12 * GIB if index else 0,
        )
        for index, (free, reason) in enumerate(zip(frees, reasons, strict=False))
    ]


class FleetKeptReady(RuleBasedStateMachine):
    """A fleet is told things in any order; the reference draws every card up anew, from what the hosts last said."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.fleet = Fleet(HOSTS)
        self.flights: dict[str, tuple[str, int]] = {}
        self.making: dict[str, str] = {}

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        host=hosts,
        frees=st.lists(GIBS, max_size=2),
        reasons=st.tuples(st.sampled_from(["", "", "too hot"]), st.just("")),
        problem=st.sampled_from(["", "", "", "NVML is gone"]),
    )
    def cards_are_published(self, host: str, frees: list[int], reasons: tuple[str, str], problem: str) -> None:
        event = CardsSampled(host=host, cards=cards(host, frees, list(reasons)), problem=problem)
        self.fleet.back(host)
        self.fleet.sampled(host, event, self.now)

    @rule(lease=leases())
    def a_lease_is_told_of(self, lease: Lease) -> None:
        self.fleet.changed(lease.host, LeaseChanged(change="marked", lease=lease), self.now)

    @rule(lease=leases())
    def a_lease_ends(self, lease: Lease) -> None:
        self.fleet.changed(lease.host, LeaseChanged(change="released", lease=lease), self.now)

    @rule(host=hosts, living=st.lists(leases(), max_size=4, unique_by=lambda lease: lease.lease_id))
    def a_table_is_told_whole(self, host: str, living: list[Lease]) -> None:
        there = [lease for lease in living if lease.host == host]
        self.fleet.listed(host, Leases(leases=there, as_of=Cursor(epoch=1, seq=1)), self.now)

    @rule(number=st.integers(0, 3), bytes=GIBS, makes_room=rarely)
    def a_supervisor_is_asked(self, number: int, bytes: int, makes_room: bool) -> None:
        for card in self.fleet.candidates(self.now)[:1]:
            self.fleet.claim(f"lease-{number}", card, bytes, makes_room=makes_room)

    @rule(number=st.integers(0, 3))
    def it_answers(self, number: int) -> None:
        self.fleet.admitted(f"lease-{number}", self.now)

    @rule(number=st.integers(0, 3))
    def it_refuses(self, number: int) -> None:
        self.fleet.unclaim(f"lease-{number}")

    @rule(uuid=uuids, bytes=GIBS)
    def a_refusal_is_believed(self, uuid: str, bytes: int) -> None:
        self.fleet.cap(host_of(uuid), uuid, bytes)

    @rule(uuid=uuids)
    def a_limit_is_learned(self, uuid: str) -> None:
        self.fleet.limit(host_of(uuid), uuid, 20 * GIB)

    @rule(host=hosts, seconds=st.sampled_from([0.5, 4.0]))
    def a_host_rests(self, host: str, seconds: float) -> None:
        self.fleet.pause(host, self.now + seconds)

    @rule(host=hosts)
    def a_host_is_lost(self, host: str) -> None:
        self.fleet.lost(host, "link down")

    @rule(idle_s=st.sampled_from([5.0, 7_000.0]))
    def somebody_goes(self, idle_s: float) -> None:
        self.fleet.horizon.evicted(idle_s)

    @rule(wish=wishes(), priority=st.sampled_from([50, 70]), kept=st.sampled_from([(), (), UUIDS[:1]]), bar=rarely)
    def a_request_is_placed(self, wish: Wish, priority: int, kept: tuple[str, ...], bar: bool) -> None:
        barred = {"pc2": "lacks the files"} if bar else {}
        self.fleet.reprice(self.now)
        seen = [card for card in self.candidates() if card.host not in barred]
        assert making_room.fitting(self.fleet, wish, self.now, kept, barred) == pick(wish, seen, kept)
        first = next(iter(self.ranked(wish, seen, priority, kept)), None)
        found = making_room.cheapest(self.fleet, wish, priority, self.now, kept, barred)
        possible = first is not None and first.possible
        assert (found and found.uuid) == (first.site.card.uuid if first is not None and possible else None)
        if found is not None and wish.cards == 1 and not wish.exclusive:
            room = self.fleet.room(wish, priority, self.now, kept, barred)
            assert room is not None
            assert first is not None
            assert room.victims == tuple(each.lease_id for each in first.plan.chosen)

    @invariant()
    def the_cards_are_as_they_would_be_drawn_up_now(self) -> None:
        assert self.fleet.candidates(self.now) == self.candidates()

    def candidates(self) -> list[Candidate]:
        """Every card, drawn up from nothing but what was said."""
        flying: dict[str, int] = {}
        for flight in self.fleet._flights.values():
            flying[flight.place[1]] = flying.get(flight.place[1], 0) + flight.bytes
        return [
            view.candidate(card, view.closed(self.now), flying.get(uuid, 0))
            for view in self.fleet._hosts.values()
            for uuid, card in view.cards.items()
        ]

    def ranked(self, wish: Wish, seen: list[Candidate], priority: int, kept: tuple[str, ...]) -> list[Ranked]:
        """The long way: every lease on every open card weighed."""
        refusing = self.fleet._refusing(wish.need_bytes)
        sites = [
            Site(card, list(self.residents(card)), self.queued_s(card))
            for card in seen
            if not card.problem and card.uuid not in refusing and card.uuid not in kept
        ]
        best = rank(wish.need_bytes, in_question(wish, sites), priority, self.fleet.horizon.seconds)
        if wish.cards == 1:
            return best
        able = [each.site.card.host for each in best if each.possible]
        return [each for each in best if able.count(each.site.card.host) >= wish.cards]

    def residents(self, card: Candidate) -> Iterator[Resident]:
        view = self.fleet._hosts[card.host]
        for lease in view.leases.values():
            if card.uuid in residents.cards_of(lease):
                tenant = residents.tenant(lease, view.said_at[lease.lease_id])
                yield tenant.resident(self.fleet._ready.demand, self.now)

    def queued_s(self, card: Candidate) -> float:
        view = self.fleet._hosts[card.host]
        return residents.queued_load_s(
            lease for lease in view.leases.values() if card.uuid in residents.cards_of(lease)
        )


TestFleetKeptReady = FleetKeptReady.TestCase
TestFleetKeptReady.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
