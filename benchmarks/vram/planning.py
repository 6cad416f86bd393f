"""How long ResourceManager's planner takes to decide where a request goes, by its own view of the hosts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random

import msgspec

from benchmarks.vram.deciding import CARD_GIB, PER_HOST, USED
from common.api.gpus import Card, CardsSampled
from common.api.leases import AcquireLease, Lease, LeaseChanged, Leases, Owner
from common.api.words import Cursor
from common.errors import Conflict
from common.vram.amount import GIB
from common.vram.placement import Wish
from pc2.resource_manager import making_room
from pc2.resource_manager.events import Asked, CardsSeen, HostBack, LeaseSeen, Refused, Tick, Withdrawn
from pc2.resource_manager.instructions import AskSupervisor
from pc2.resource_manager.making_room import NONE_BARRED
from pc2.resource_manager.planner import Planner
from pc2.resource_manager.steps import PlannerPolicy

NOW = 100_000.0
AT = "2025-01-01T00:00:00Z"
PATIENT_S = 60.0
NONE_KEPT: frozenset[str] = frozenset()


def planner(cards: int, leases: int, *, full: bool, seed: int = 1) -> Planner:
    """A planner told of so many cards with so many leases spread evenly; `full` leaves less than a GiB free on each."""
    rng, each = Random(seed), leases // cards
    hosts = [f"host{number:03d}" for number in range(-(-cards // PER_HOST))]
    made = Planner(hosts, rng, PlannerPolicy())
    for place, host in enumerate(hosts):
        numbers = range(place * PER_HOST, min(cards, (place + 1) * PER_HOST))
        there = [_lease(rng, host, number, each, one) for number in numbers for one in range(each)]
        seen = [_card(host, number, rng.uniform(0, 1 if full else CARD_GIB)) for number in numbers]
        made.handle(HostBack(host, Leases(leases=there, as_of=Cursor(epoch=1, seq=1))), NOW, AT)
        made.handle(CardsSeen(host, CardsSampled(host=host, cards=seen)), NOW, AT)
    made.handle(Tick(), NOW, AT)
    return made


def chosen_us(made: Planner, most_gib: float, decisions: int, seed: int = 2) -> list[float]:
    """Microseconds of each choice of a card, from the least; before each a lease is told to have been used."""
    took = []
    for gib in _asked(made, most_gib, decisions, seed):
        wish = Wish("asked", int(gib * GIB))
        began = time.perf_counter()
        if making_room.fitting(made.fleet, wish, NOW, NONE_KEPT, NONE_BARRED) is None:
            making_room.cheapest(made.fleet, wish, 50, NOW, NONE_KEPT, NONE_BARRED)
        took.append((time.perf_counter() - began) * 1e6)
    return sorted(took)


def turns_us(made: Planner, most_gib: float, decisions: int, seed: int = 2) -> list[float]:
    """The same of each whole turn: the request taken in, its card chosen, its intent written, what its caller is told."""
    took = []
    for gib in _asked(made, most_gib, decisions, seed):
        request = AcquireLease(model="asked", bytes=int(gib * GIB), wait_s=PATIENT_S)
        began = time.perf_counter()
        decision = made.handle(Asked("call", request, "anna"), NOW, AT)
        took.append((time.perf_counter() - began) * 1e6)
        asks = [each for each in decision.instructions if isinstance(each, AskSupervisor)]
        for each in asks:
            made.handle(Refused(each.request.lease_id, each.attempt, Conflict("measured")), NOW, AT)
        if not asks:
            made.handle(Withdrawn("call"), NOW, AT)
    return sorted(took)


def weighed_us(made: Planner, most_gib: float, decisions: int, seed: int = 2) -> list[float]:
    """The same of each ranking of every card with every lease weighed, as `plan` and refusals show it."""
    took = []
    for gib in _asked(made, most_gib, decisions, seed):
        began = time.perf_counter()
        making_room.ranked(made.fleet, Wish("asked", int(gib * GIB)), 50, NOW)
        took.append((time.perf_counter() - began) * 1e6)
    return sorted(took)


Timed = Callable[[Planner, float, int], list[float]]


def _asked(made: Planner, most_gib: float, decisions: int, seed: int) -> Iterator[float]:
    rng, leases = Random(seed), made.fleet.leases()
    for number in range(decisions):
        used = msgspec.structs.replace(leases[number % len(leases)], idle_s=0.0)
        made.handle(LeaseSeen(used.host, LeaseChanged(change="marked", lease=used)), NOW, AT)
        yield rng.uniform(1, most_gib)


def _card(host: str, number: int, free_gib: float) -> Card:
    return Card(
        host=host,
        card=number % PER_HOST,
        card_uuid=f"GPU-{number:04d}",
        name="card",
        total_bytes=int(CARD_GIB * GIB),
        free_bytes=int(free_gib * GIB),
        leased_bytes=0,
        used_bytes=0,
        grantable_bytes=int(free_gib * GIB),
        simulated=True,
    )


def _lease(rng: Random, host: str, number: int, each: int, one: int) -> Lease:
    return Lease(
        lease_id=f"lease-{number}-{one}",
        model=f"model-{number}-{one}",
        bytes=int(rng.uniform(0.5, CARD_GIB / each) * GIB),
        measured_bytes=0,
        verified=True,
        priority=50,
        host=host,
        card=number % PER_HOST,
        card_uuid=f"GPU-{number:04d}",
        fencing_token=1,
        owner=Owner(),
        identity="anna",
        ttl_s=60.0,
        expires_in_s=60.0,
        granted_at=AT,
        in_use=rng.random() < USED,
        loaded=True,
        idle_s=rng.uniform(0, 7_200),
        gap_s=rng.uniform(10, 7_200),
        load_s=rng.uniform(2, 12),
    )
