"""The cards and the leases on them as the queue for loading weighs them, drawn up from what the host's lease table shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.api.leases import Lease
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.placement import Candidate
from common.vram.priced_cards import Tenant
from common.vram.residency import Residency


def residency(
    cards: Iterable[Candidate],
    leases: Iterable[Lease],
    loading: Mapping[str, float],
    demand: Demand,
    horizon: Horizon,
) -> Residency:
    """Who is where; `loading` are the cards whose loader is taken, with the time at which that should be over.

    A lease that sleeps is expected to be woken rather than to make room, and shares take none.
    """
    seen = Residency(demand, horizon)
    known = set()
    for card in cards:
        seen.see(card)
        known.add(card.uuid)
    for uuid, until in loading.items():
        if uuid in known:
            seen.loading(uuid, until)
    for lease in leases:
        if not lease.shares:
            for uuid in known.intersection(lease.card_uuids):
                seen.put(uuid, _tenant(lease))
    return seen


def _tenant(lease: Lease) -> Tenant:
    return Tenant(
        lease_id=lease.lease_id,
        key=ModelKey(lease.model, lease.config),
        bytes=lease.bytes,
        priority=lease.priority,
        load_s=lease.load_s,
        pinned=lease.pinned,
        in_use=lease.in_use,
        expiring=lease.state != "held",
    )
