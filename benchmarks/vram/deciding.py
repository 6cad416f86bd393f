"""How long Tandem takes to decide where a request goes, on cards and leases of any number."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

from common.vram.amount import GIB
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.placement import Candidate, Wish
from common.vram.priced_cards import Tenant
from common.vram.residency import Residency

NOW = 100_000.0
CARD_GIB = 24.0
PER_HOST = 4
USED = 0.3
"""The share of leases that are in use."""


def fleet(cards: int, leases: int, *, full: bool, seed: int = 1) -> Residency:
    """So many cards with so many leases spread evenly; `full` leaves less than a GiB free on each."""
    rng = Random(seed)
    residency = Residency(Demand(limit=2 * leases), Horizon())
    each = leases // cards
    for number in range(cards):
        free = int(rng.uniform(0, 1 if full else CARD_GIB) * GIB)
        uuid = f"GPU-{number:04d}"
        host, capacity = f"host{number // PER_HOST:03d}", int(CARD_GIB * GIB)
        residency.see(Candidate(host, number % PER_HOST, uuid, free, capacity))
        for place in range(each):
            key = ModelKey(f"model-{number}-{place}")
            for at in sorted(NOW - rng.uniform(0, 7_200) for _ in range(2)):
                residency.used(key, at)
            held, load_s = int(rng.uniform(0.5, CARD_GIB / each) * GIB), rng.uniform(2, 12)
            lease_id, in_use = f"lease-{number}-{place}", rng.random() < USED
            residency.put(uuid, Tenant(lease_id, key, held, 50, load_s, in_use=in_use))
    residency.reprice(NOW)
    return residency


def took_us(residency: Residency, most_gib: float, decisions: int, seed: int = 2) -> list[float]:
    """Microseconds of each of so many decisions, from the least; between two of them a lease changes its price."""
    took = []
    for wish, key in _asked(residency, most_gib, decisions, seed):
        residency.used(key, NOW)
        began = time.perf_counter()
        residency.room(wish, 50, NOW)
        took.append((time.perf_counter() - began) * 1e6)
    return sorted(took)


def _asked(residency: Residency, most_gib: float, decisions: int, seed: int) -> Iterator[tuple[Wish, ModelKey]]:
    rng = Random(seed)
    for number in range(decisions):
        yield Wish("asked", int(rng.uniform(1, most_gib) * GIB)), ModelKey(f"model-{number % 10}-0")
