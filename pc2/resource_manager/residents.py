"""The leases of a card as an eviction weighs them, from what its supervisor last said: a view to plan by.

The supervisor weighs them anew by its own measurements before anything goes. Nothing here marks or ends a lease.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.api.leases import Lease
from common.vram.eviction import Resident
from common.vram.footprint import BYTES_PER_S, FIXED_S


def cards_of(lease: Lease) -> frozenset[str]:
    """The cards on which the lease has bytes of its own; a share has none, nor has a lease of its host alone."""
    return frozenset() if lease.shares else frozenset(filter(None, (lease.card_uuid, *lease.card_uuids)))


def load_s(lease: Lease) -> float:
    """How long it takes to load again; where nobody said, as a host loads from its page cache."""
    return lease.load_s or FIXED_S["cached"] + (lease.declared_bytes or lease.bytes) / BYTES_PER_S["cached"]


def resident(lease: Lease, said_s: float) -> Resident:
    """The lease, of which its supervisor said so `said_s` seconds ago; one that sleeps returns next to nothing, and stays."""
    used = lease.in_use or lease.users > 0
    return Resident(
        lease.lease_id,
        lease.model,
        lease.config,
        0 if lease.state == "parked" else max(lease.bytes, lease.measured_bytes),
        lease.priority,
        lease.pinned,
        used,
        lease.state == "expiring",
        0.0 if used else lease.idle_s + said_s,
        lease.gap_s,
        load_s(lease),
    )


def queued_load_s(leases: Iterable[Lease]) -> float:
    """Seconds of loading that go on or are to come: of leases with a known load that have not loaded."""
    return sum(lease.load_s for lease in leases if lease.state == "held" and not lease.loaded)
