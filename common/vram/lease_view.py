"""A lease record and a choice as others see them: in replies, lists and receipts. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec

from common.api.decisions import Decided, Receipt, Rung, Victim
from common.api.leases import AcquireLease, Lease, LeaseChanged, LeaseGranted, Owner
from common.api.supervisor import AdmitLease
from common.api.words import Timestamp
from common.vram.amount import amount
from common.vram.lease_decision import Announce, Note
from common.vram.lease_facts import LeaseRecord
from common.vram.lease_state import LeaseState, key_of
from common.vram.ledger import Share
from common.vram.placement import Choice

PLAIN: Final = ("", 1, False, False, False, 0, 0, 0.0)
"""The body of a request that asks for bytes on one card and nothing more; it adds nothing, so that older bodies stay the same."""
Explained: TypeAlias = Choice | Callable[[], Choice]
"""A choice with its reasons, or what draws it up once somebody reads them."""
_JSON: Final = msgspec.json.Encoder()
NOTHING_TO_HOLD: Final = Share(0, True)
"""What a lease of no card is seen to hold on cards, which nobody has to look at."""
LOADED_FRACTION: Final = 0.9
"""A lease whose owner is seen to hold this much of it has been loaded, whether anybody said so or not."""


def body_of(asked: AcquireLease) -> str:
    """What an idempotency key stands for at a card's host: the request without its placement and its patience."""
    owner = asked.owner or Owner()
    declared = asked.declared_bytes if isinstance(asked, AdmitLease) else 0
    body = (asked.model, declared or asked.bytes, asked.priority, float(asked.ttl_s), owner.agent_name, owner.pid)
    more = (
        asked.config,
        asked.cards,
        asked.exclusive,
        asked.share,
        asked.pinned,
        asked.ram_bytes,
        asked.disk_bytes,
        asked.cpu_cores,
    )
    return _JSON.encode(body if more == PLAIN else body + more).decode()


def granted(record: LeaseRecord, host: str, expires_in_s: float) -> LeaseGranted:
    """The reply to whoever asked for the lease."""
    return LeaseGranted(
        lease_id=record.lease_id,
        host=host,
        card=record.card,
        card_uuid=record.card_uuid,
        fencing_token=record.fencing_token,
        expires_in_s=expires_in_s,
        bytes=record.bytes,
        card_uuids=list(record.card_uuids),
        shares=record.shares,
    )


def expires_in_s(state: LeaseState, record: LeaseRecord, now: float) -> float:
    """Seconds until the TTL ends it; the whole TTL where something else keeps it."""
    due = state.deadlines.get(record.lease_id)
    return record.ttl_s if due is None else max(0.0, due - now)


def measured(state: LeaseState, record: LeaseRecord) -> Share:
    """What it is seen to hold; of several cards the most on any, verified where all are."""
    shares = [state.book.share(uuid, record.lease_id) for uuid, _ in record.places]
    if not shares and not record.card_uuid:
        return NOTHING_TO_HOLD
    if not shares:
        parent = state.live.get(record.shares)
        return Share(0, parent is not None and measured(state, parent).verified)
    return shares[0] if len(shares) == 1 else Share(max(shares)[0], all(each.verified for each in shares))


def lease(state: LeaseState, record: LeaseRecord, now: float) -> Lease:
    """The lease as lists and events show it."""
    share, known = measured(state, record), record.lease_id in state.live
    return Lease(
        lease_id=record.lease_id,
        model=record.model,
        bytes=record.bytes,
        measured_bytes=share.measured_bytes,
        verified=share.verified,
        priority=record.priority,
        host=state.host,
        card=record.card,
        card_uuid=record.card_uuid,
        fencing_token=record.fencing_token,
        owner=record.owner,
        identity=record.identity,
        ttl_s=record.ttl_s,
        expires_in_s=expires_in_s(state, record, now),
        granted_at=record.granted_at,
        config=record.config,
        state=record.state,
        in_use=state.in_use(record),
        loaded=record.loaded,
        pinned=record.pinned,
        exclusive=record.exclusive,
        shares=record.shares,
        users=len(state.users.get(record.lease_id, ())),
        card_uuids=list(record.card_uuids),
        declared_bytes=record.declared_bytes or record.bytes,
        ram_bytes=record.ram_bytes + record.parked_bytes,
        disk_bytes=record.disk_bytes,
        cpu_cores=record.cpu_cores,
        idle_s=state.idle_s(record, now) if known else 0.0,
        gap_s=state.demand.gap(key_of(record)),
        load_s=_load_s(state, record),
        reason=record.reason,
        given_back=record.given_back,
    )


def _load_s(state: LeaseState, record: LeaseRecord) -> float:
    """How long its load was seen or said to take; 0 where neither is known."""
    seen = state.footprints.reload_seconds(key_of(record))
    return record.load_s if seen is None else seen


def announce(state: LeaseState, record: LeaseRecord, change: str, now: float, reason: str = "") -> Announce:
    """The event that the lease is as the record says."""
    return Announce(change, _changed(state, record, change, now, reason))


def announce_grant(state: LeaseState, record: LeaseRecord, now: float) -> Announce:
    """The event that the lease came into being, drawn up when it is read: after that is a fact."""
    return Announce("granted", partial(_changed, state, record, "granted", now))


def _changed(state: LeaseState, record: LeaseRecord, change: str, now: float, reason: str = "") -> LeaseChanged:
    return LeaseChanged(change=change, lease=lease(state, record, now), reason=reason)  # type: ignore[arg-type]


def loading(state: LeaseState) -> dict[str, str]:
    """By card the model that is being loaded there: of a lease that takes time to load, and is neither said nor seen to be."""
    return {
        uuid: record.model
        for record in state.live.values()
        if record.load_s and record.state == "held" and not record.loaded
        for uuid, _ in record.places
        if state.book.share(uuid, record.lease_id).measured_bytes < LOADED_FRACTION * record.bytes
    }


def note(
    record: LeaseRecord,
    host: str,
    decision: Decided,
    reason: str,
    at: Timestamp,
    *,
    free_bytes: int = 0,
    victims: Sequence[Victim] = (),
    rungs: Sequence[Rung] = (),
    expected_bytes: int = 0,
    returned_bytes: int = 0,
    details: Mapping[str, Any] | None = None,
) -> Note:
    """The receipt for what became of a lease."""
    told = dict(details or {})
    if record.for_lease:
        told["for"] = record.for_lease
    receipt = Receipt(
        at=at,
        lease_id=record.lease_id,
        model=record.model,
        decision=decision,
        need_bytes=record.bytes,
        free_bytes=free_bytes,
        host=host,
        card_uuid=record.card_uuid,
        reason=reason,
        details=told,
        victims=list(victims),
        rungs=list(rungs),
        expected_bytes=expected_bytes,
        returned_bytes=returned_bytes,
        lost_s=record.lost_s,
    )
    return Note(receipt, record.idempotency_key)


def choice_note(
    asked: AdmitLease,
    choice: Explained,
    at: Timestamp,
    decision: Decided | None = None,
    victims: Sequence[Victim] = (),
) -> Note:
    """The receipt for what became of a request at a card's host; `victims` went for it, where the choice names none."""
    return Note(partial(_chosen, asked, choice, at, decision, victims), asked.idempotency_key)


def _chosen(
    asked: AdmitLease,
    told: Explained,
    at: Timestamp,
    decision: Decided | None,
    victims: Sequence[Victim],
) -> Receipt:
    choice = told() if callable(told) else told
    return Receipt(
        at=at,
        lease_id=asked.lease_id,
        model=asked.model,
        decision=decision or ("granted" if choice.card else "refused"),
        need_bytes=choice.wish.need_bytes,
        free_bytes=choice.free_bytes,
        host=choice.card.host if choice.card else "",
        card_uuid=choice.card.uuid if choice.card else "",
        reason=f"{choice.reason}{_learned(asked)}",
        cards=choice.verdicts,
        details={"declared_bytes": asked.declared_bytes} if asked.declared_bytes else {},
        victims=list(victims or choice.victims),
    )


def _learned(asked: AdmitLease) -> str:
    """That the request was planned with what its model was seen to hold, and not with what was declared."""
    if not asked.declared_bytes:
        return ""
    return f"; {amount(asked.declared_bytes)} were declared, {amount(asked.bytes)} were learned of it here"
