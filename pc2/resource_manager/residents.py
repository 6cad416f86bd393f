"""The leases of a card as an eviction weighs them, from what its supervisor last said: a view to plan by.

The supervisor weighs them anew by its own measurements before anything goes. Nothing here marks or ends a lease.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.api.leases import Lease
from common.vram.demand import ModelKey
from common.vram.footprint import BYTES_PER_S, FIXED_S
from common.vram.priced_cards import Tenant, Uses


def cards_of(lease: Lease) -> frozenset[str]:
    """The cards on which the lease has bytes of its own; a share has none, nor has a lease of its host alone."""
    return frozenset() if lease.shares else frozenset(filter(None, (lease.card_uuid, *lease.card_uuids)))


def load_s(lease: Lease) -> float:
    """How long it takes to load again; where nobody said, as a host loads from its page cache."""
    return lease.load_s or FIXED_S["cached"] + (lease.declared_bytes or lease.bytes) / BYTES_PER_S["cached"]


def tenant(lease: Lease, said_at: float) -> Tenant:
    """The lease as its supervisor told of it then; one that sleeps returns next to nothing, and stays."""
    return Tenant(
        lease.lease_id,
        ModelKey(lease.model, lease.config),
        0 if lease.state == "parked" else max(lease.bytes, lease.measured_bytes),
        lease.priority,
        load_s(lease),
        lease.pinned,
        lease.in_use or lease.users > 0,
        lease.state == "expiring",
        Uses(said_at - lease.idle_s, lease.gap_s),
    )


def queued_load_s(leases: Iterable[Lease]) -> float:
    """Seconds of loading that go on or are to come: of leases with a known load that have not loaded."""
    return sum(lease.load_s for lease in leases if lease.state == "held" and not lease.loaded)
