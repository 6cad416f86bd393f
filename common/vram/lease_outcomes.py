"""What became of evictions: leases ended with their bytes seen back, put to sleep, or ended with their bytes in quarantine.

Whatever came of it, no victim is revived: a lease that was marked expiring ends, or sleeps under a token that nobody
holds: its holder's former one only lets go of it. The card's looks said what came back; here it is only written down.
Functions decide and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from common.api.decisions import Rung, Victim
from common.api.words import Timestamp
from common.vram import lease_ending, lease_evictions, lease_view
from common.vram.amount import amount
from common.vram.cards import ProcessId
from common.vram.fencing import EpochSpent, Fence
from common.vram.lease_decision import Decision, Evict, Note
from common.vram.lease_facts import (
    EpochOpened,
    FurtherCard,
    LeaseRecord,
    Parked,
    Quarantine,
    Quarantined,
)
from common.vram.lease_state import LeaseState


def next_fence(state: LeaseState) -> tuple[Fence, tuple[EpochOpened, ...]]:
    """The next place in the order of grants, and the epoch that has to be opened for it."""
    try:
        return state.fence.next(), ()
    except EpochSpent:
        opened = state.fence.next_epoch()
        return opened.next(), (EpochOpened(opened.epoch),)


def going(state: LeaseState, lease_ids: Sequence[str]) -> list[LeaseRecord]:
    """Those of the leases that still live and have to go; the others ended by themselves meanwhile."""
    live = (state.live.get(lease_id) for lease_id in lease_ids)
    return [record for record in live if record is not None and record.state == "expiring"]


def evicted(
    state: LeaseState, lease_ids: Sequence[str], rungs: Sequence[Rung], returned: int, now: float, at: Timestamp
) -> Decision:
    """Their bytes were seen back: the leases end, and each receipt tells by which rungs."""
    records = going(state, lease_ids)
    why = _why(records, f"evicted: {amount(returned)} came back{_by(rungs)}")
    notes = _notes(state, records, why, at, rungs, returned)
    return lease_ending.end(state, records, "evicted", now, at, reason=why, notes=notes)


def parked(
    state: LeaseState,
    lease_id: str,
    residual: int,
    ram: int,
    rungs: Sequence[Rung],
    now: float,
    at: Timestamp,
) -> Decision:
    """Its owner sleeps: the lease keeps `residual` bytes on its cards, its weights take `ram` bytes of the host's.

    With `ram` 0 nothing was seen to leave the cards, for it went to sleep before a look; then they are the rest of its bytes.
    """
    records = going(state, [lease_id])
    if not records:
        return Decision()
    (record,) = records
    ram = ram or max(0, record.bytes - residual) * len(record.places)
    fence, opened = next_fence(state)
    why = f"asleep: {amount(residual)} stay on the card, {amount(ram)} in host RAM"
    asleep = msgspec.structs.replace(
        record,
        state="parked",
        bytes=residual,
        declared_bytes=record.declared_bytes or record.bytes,
        parked_bytes=ram,
        fencing_token=fence.token,
        slept_token=record.fencing_token,
        in_use=False,
        loaded=False,
        reason=why,
    )
    note = lease_view.note(
        record,
        state.host,
        "parked",
        _why(records, why),
        at,
        victims=_weighed(state, record),
        rungs=rungs,
        expected_bytes=record.bytes,
        returned_bytes=max(0, record.bytes - residual),
    )
    told = lease_view.announce(state, asleep, "parked", now, why)
    return Decision(facts=(*opened, Parked(asleep)), instructions=(told, note))


def quarantined(
    state: LeaseState, lease_ids: Sequence[str], bytes: int, rungs: Sequence[Rung], now: float, at: Timestamp
) -> Decision:
    """Their owner let go of nothing, or not of all: the leases end, and the `bytes` it still holds stay under its name.

    Where no process of this host is known, there is none to name: what the card holds then speaks for itself.
    """
    records = going(state, lease_ids)
    if not records:
        return Decision()
    first = records[0]
    owner = state.pinned(first.owner)
    why = _why(records, f"evicted: {amount(bytes)} would not go{_by(rungs)}")
    expected = sum(record.bytes for record in records)
    notes = _notes(state, records, why, at, rungs, max(0, expected - bytes))
    ended = lease_ending.end(
        state, records, "evicted", now, at, reason=why, notes=notes, quarantined=first.lease_id if owner else ""
    )
    note = lease_view.note(first, state.host, "quarantined", why, at, rungs=rungs, details={"bytes": bytes})
    return Decision(
        facts=(*_kept(first, owner, bytes), *ended.facts),
        instructions=(*ended.instructions, note),
    )


def _kept(record: LeaseRecord, owner: ProcessId | None, left: int) -> tuple[Quarantined, ...]:
    if owner is None:
        return ()
    places = tuple(FurtherCard(uuid, base) for uuid, base in record.places)
    return (
        Quarantined(Quarantine(lease_id=record.lease_id, model=record.model, bytes=left, owner=owner, places=places)),
    )


def lifted(state: LeaseState, now: float) -> list[str]:
    """The quarantines whose bytes a look shows gone."""
    return [
        quarantine.lease_id
        for quarantine in state.quarantines.values()
        if all(state.book.quarantined_bytes(each.uuid, quarantine.lease_id, now) == 0 for each in quarantine.places)
    ]


def pending_evictions(state: LeaseState) -> list[Evict]:
    """The orders for every lease that has to go and that nobody uses any more; those under way are ordered again as they were."""
    waiting: dict[str, list[LeaseRecord]] = {}
    for record in state.live.values():
        if record.state == "expiring" and not state.in_use(record):
            waiting.setdefault(record.for_lease, []).append(record)
    orders: list[Evict] = []
    for for_lease, records in waiting.items():
        rooms = state.reservations.get(for_lease, {})
        orders += lease_evictions.evict_orders(state, records, next(iter(rooms), ""))
    return orders


def _notes(
    state: LeaseState, records: Sequence[LeaseRecord], why: str, at: Timestamp, rungs: Sequence[Rung], returned: int
) -> dict[str, Note]:
    return {
        record.lease_id: lease_view.note(
            record,
            state.host,
            "evicted",
            why,
            at,
            victims=_weighed(state, record),
            rungs=rungs,
            expected_bytes=sum(each.bytes for each in records),
            returned_bytes=returned,
        )
        for record in records
    }


def _weighed(state: LeaseState, record: LeaseRecord) -> list[Victim]:
    """What was weighed when the lease was chosen, as long as the request for which it goes has its room."""
    rooms = state.reservations.get(record.for_lease, {})
    return list(next(iter(rooms.values())).weighed) if rooms else []


def _why(records: Sequence[LeaseRecord], what: str) -> str:
    reason = records[0].reason if records else ""
    return f"{what}; {reason}" if reason else what


def _by(rungs: Sequence[Rung]) -> str:
    return f" by {rungs[-1].rung}" if rungs else ""
