"""What evictions have to know of the leases: who may go from a card, what that returns, and what an owner is told to do.

A lease is weighed with what it holds or was promised on the card, less what its owner may keep asleep. An owner with a verb gives
back one lease alone. One without a verb is ended, and so all its leases go together, or none. Whether weights may stay in host
RAM is the host's ledger's to say. Nothing here marks a lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Final

import msgspec

from common.api.decisions import Victim
from common.api.leases import Lease, Unload
from common.vram import lease_view
from common.vram.amount import MIB
from common.vram.cards import ProcessId
from common.vram.eviction import Resident
from common.vram.footprint import BYTES_PER_S, FIXED_S
from common.vram.lease_decision import Evict, EvictionOrder
from common.vram.lease_facts import LeaseRecord
from common.vram.lease_state import LeaseState, key_of
from common.vram.ledger import UNSEEN
from common.vram.rungs import DEFAULT as LADDER
from common.vram.rungs import Means, rungs_for

ASLEEP_FLOOR_BYTES: Final = 512 * MIB
ASLEEP_FRACTION: Final = 0.1
"""A sleeping owner may keep the larger of these on a card, and at most half of what it held."""
ASLEEP: Final = "asleep already"
FOR_GOOD: Final = "the host's RAM, disk or cores that it holds are wanted"
HIGHEST_PRIORITY: Final = 100
SPARED: Final = "its process also serves {}, and has no verb to give this one back alone"


def held_bytes(state: LeaseState, record: LeaseRecord, card_uuid: str) -> int:
    """What the lease counts on the card: what it was promised, or what it holds where that is more."""
    return max(record.bytes, state.book.share(card_uuid, record.lease_id).measured_bytes)


def not_parked(state: LeaseState, record: LeaseRecord, others_bytes: int = 0) -> str:
    """Why its weights may not stay in host RAM beside `others_bytes` parked with it; empty where they may."""
    if why := _stays_awake(record):
        return why
    return state.resources.parks(record.lease_id, record.bytes * len(record.places) + others_bytes)


def _stays_awake(record: LeaseRecord) -> str:
    return ASLEEP if record.parked_bytes else FOR_GOOD if record.for_good else ""


def residual_bytes(state: LeaseState, record: LeaseRecord, held: int) -> int:
    """What its owner may keep of what it holds on a card when it is put to sleep; 0 where it knows no sleep or must not."""
    if record.unload is None or not record.unload.sleep or not_parked(state, record):
        return 0
    return min(max(ASLEEP_FLOOR_BYTES, int(held * ASLEEP_FRACTION)), held // 2)


def load_s(state: LeaseState, record: LeaseRecord, *, asleep: bool = False) -> float:
    """How long it takes to load again: as seen (from host RAM if it is `asleep`), as said, or as from a page cache."""
    seen = state.footprints.reload_seconds(key_of(record), asleep=asleep)
    if seen is not None:
        return seen
    return record.load_s or FIXED_S["cached"] + (record.declared_bytes or record.bytes) / BYTES_PER_S["cached"]


def resident(state: LeaseState, record: LeaseRecord, held: int, priority: int, now: float) -> Resident:
    """The lease as an eviction for a request of this priority weighs it; one whose process others need stays, as if pinned."""
    residual = residual_bytes(state, record, held)
    return Resident(
        record.lease_id,
        record.model,
        record.config,
        held - residual,
        record.priority,
        record.pinned or bool(needed_for(state, record, priority)),
        state.in_use(record),
        record.state == "expiring",
        state.idle_s(record, now),
        state.demand.gap(key_of(record)),
        load_s(state, record, asleep=residual > 0),
    )


def residents(state: LeaseState, card_uuid: str, priority: int, now: float) -> list[Resident]:
    """Every lease on the card, as such an eviction weighs it."""
    seen, live = state.book.shares(card_uuid), state.live
    return [
        resident(state, record, max(record.bytes, seen.get(each, UNSEEN).measured_bytes), priority, now)
        for each, record in ((each, live[each]) for each in state.book.tenants(card_uuid))
    ]


def beside_cards(state: LeaseState, priority: int, now: float) -> list[Lease]:
    """Every lease but shares as an eviction for what the host has beside its cards weighs it, as `resident` has it on a card."""
    return [
        msgspec.structs.replace(
            lease_view.lease(state, record, now),
            pinned=record.pinned or bool(needed_for(state, record, priority)),
            load_s=load_s(state, record),
        )
        for record in state.live.values()
        if not record.shares
    ]


def coming_bytes(weighed: Iterable[Resident]) -> int:
    """What comes back of leases that have to go already."""
    return sum(each.bytes for each in weighed if each.expiring)


def needed_for(state: LeaseState, record: LeaseRecord, priority: int) -> str:
    """A lease of the same process that may not go, where the process would have to be ended for this one; empty: none."""
    if _has_verb(record):
        return ""
    for other in _companions(state, record):
        if other.shares or other.pinned or other.priority > priority or state.in_use(other):
            return other.lease_id
    return ""


def companions(state: LeaseState, record: LeaseRecord) -> list[LeaseRecord]:
    """The other leases that hang on its process."""
    return list(_companions(state, record))


def _companions(state: LeaseState, record: LeaseRecord) -> Iterator[LeaseRecord]:
    owner = state.pinned(record.owner)
    if owner is None or len(state.owned[owner]) == 1:
        return
    for lease_id in state.owned[owner]:
        other = state.live.get(lease_id)
        if other is not None and lease_id != record.lease_id:
            yield other


def giving_back(state: LeaseState, owner: ProcessId | None, card_uuid: str) -> LeaseRecord | None:
    """A lease whose eviction from the process is under way and must not be taken for another one's bytes on this card.

    A process without a verb is being ended: whatever it leased now would end with it.
    """
    for lease_id in state.owned.get(owner, ()) if owner is not None else ():
        record = state.live.get(lease_id)
        if record is None or record.state != "expiring" or state.in_use(record):
            continue
        if card_uuid in record.card_uuids or not _has_verb(record):
            return record
    return None


def ends_with(state: LeaseState, owner: ProcessId | None) -> frozenset[str]:
    """The leases that only the end of this process would return: they are not had go for a request of its own."""
    hung = state.owned.get(owner, ()) if owner is not None else ()
    return frozenset(each for each in hung if each in state.live and not _has_verb(state.live[each]))


def all_that_go(state: LeaseState, chosen: Sequence[str]) -> list[LeaseRecord]:
    """The chosen leases, and those that end with the processes of those of them whose owners have no verb."""
    going = {lease_id: state.live[lease_id] for lease_id in chosen}
    for lease_id in chosen:
        if not _has_verb(state.live[lease_id]):
            for other in companions(state, state.live[lease_id]):
                if other.state != "expiring":
                    going[other.lease_id] = other
    return list(going.values())


def able_to_go(state: LeaseState, lease_ids: Iterable[str]) -> list[LeaseRecord]:
    """Of the named leases those that can be made to go, whatever their use and priority, and what goes with them."""
    live = (state.live.get(lease_id) for lease_id in lease_ids)
    named = [
        record.lease_id
        for record in live
        if record is not None
        and not record.shares
        and record.state != "expiring"
        and not needed_for(state, record, HIGHEST_PRIORITY)
    ]
    return all_that_go(state, named)


def explained(state: LeaseState, weighed: Iterable[Victim], priority: int) -> list[Victim]:
    """The weighed leases; one that stays for the sake of its process says so."""
    return [_explained(state, victim, priority) for victim in weighed]


def evict_orders(
    state: LeaseState, records: Sequence[LeaseRecord], card_uuid: str = "", draining: Sequence[LeaseRecord] = ()
) -> list[Evict]:
    """The orders for leases that have to go and that nobody uses, on `card_uuid` or else on their first card.

    One for each model of an owner that can be asked for it; one for all of an owner that can only be ended, once nobody uses
    any of them. `draining` are leases that are marked with these and still used.
    """
    groups: dict[object, dict[str, LeaseRecord]] = {}
    for record in records:
        owner = state.pinned(record.owner)
        if owner is None or _has_verb(record):
            groups.setdefault((owner or record.lease_id, key_of(record)), {})[record.lease_id] = record
        elif all(state.pinned(other.owner) != owner for other in draining):
            ended = {each.lease_id: each for each in companions(state, record) if each.state == "expiring"}
            groups.setdefault(owner, ended)[record.lease_id] = record
    going = {record.lease_id for record in records}
    whole = [
        group for group in groups.values() if all(each in going or not state.in_use(group[each]) for each in group)
    ]
    return [Evict(_order(state, list(group.values()), card_uuid, going)) for group in whole]


def within_s(orders: Iterable[Evict]) -> float:
    """How long it may take until the card shows their bytes."""
    return max((_longest_s(each.order) for each in orders), default=0.0)


def _order(state: LeaseState, records: Sequence[LeaseRecord], card_uuid: str, going: Set[str]) -> EvictionOrder:
    first, ids = records[0], {record.lease_id for record in records}
    card = card_uuid if card_uuid in first.card_uuids else first.card_uuid
    here = [record for record in records if card in record.card_uuids]
    others = [other for other in companions(state, first) if other.lease_id not in ids]
    stay = [each for each in others if each.lease_id not in going and (each.state != "expiring" or state.in_use(each))]
    owner = state.pinned(first.owner)
    seen = [state.book.share(card, record.lease_id) for record in here]
    known = owner is not None and all(share.verified for share in seen)
    kept = sum(held_bytes(state, other, card) for other in others if any(card == uuid for uuid, _ in other.places))
    held = sum(share.measured_bytes for share in seen)
    beside = sum(state.book.share(card, other.lease_id).measured_bytes for other in others)
    leased = sum(held_bytes(state, record, card) for record in here)
    return EvictionOrder(
        lease_ids=tuple(record.lease_id for record in records),
        models=tuple(record.model for record in records),
        identity=first.identity,
        owner=owner,
        card_uuid=card,
        card_uuids=tuple(dict.fromkeys(uuid for record in records for uuid in record.card_uuids)),
        expected_bytes=held if known else leased,
        held_bytes=held + beside if known else None,
        free_bytes=state.book.free_bytes(card),
        keep_bytes=kept,
        residual_bytes=sum(residual_bytes(state, each, held_bytes(state, each, card)) for each in here),
        unload=next((record.unload for record in records if record.unload is not None), None),
        not_parked=not_parked_together(state, records),
        spared=f"its process also serves {stay[0].model} ({stay[0].lease_id})" if stay else "",
        for_lease=first.for_lease,
        reason=first.reason,
        lost_s=sum(record.lost_s for record in records),
    )


def not_parked_together(state: LeaseState, records: Sequence[LeaseRecord], beside_bytes: int = 0) -> str:
    """Why the weights of all of them together may not stay in host RAM, with those that are on their way there already."""
    beside = beside_bytes + sum(record.bytes * len(record.places) for record in records[1:])
    return not_parked(state, records[0], beside) or next(filter(None, map(_stays_awake, records[1:])), "")


def _longest_s(order: EvictionOrder) -> float:
    unload = order.unload or Unload()
    means = Means(
        known=order.owner is not None,
        sleep=bool(unload.sleep),
        unload=bool(unload.unload),
        stop=True,
        not_parked=order.not_parked,
        spared=order.spared,
    )
    return LADDER.longest_s(rungs_for(means), unload.timeout_s)


def _has_verb(record: LeaseRecord) -> bool:
    return record.unload is not None and bool(record.unload.sleep or record.unload.unload)


def _explained(state: LeaseState, victim: Victim, priority: int) -> Victim:
    record = state.live[victim.lease_id]
    if victim.reason != "pinned" or record.pinned:
        return victim
    return msgspec.structs.replace(victim, reason=SPARED.format(needed_for(state, record, priority)))
