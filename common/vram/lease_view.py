"""A lease record and a choice as others see them: in replies, lists and receipts. It decides nothing."""

from __future__ import annotations

from typing import Literal

import msgspec

from common.api.leases import AcquireLease, Lease, LeaseGranted, Owner, Receipt
from common.api.supervisor import AdmitLease
from common.api.words import Timestamp
from common.vram.lease_decision import Note
from common.vram.lease_facts import End, LeaseRecord
from common.vram.ledger import Share
from common.vram.placement import Choice


def body_of(asked: AcquireLease) -> str:
    """What an idempotency key stands for at a card's host: the request without its placement and its patience."""
    owner = asked.owner or Owner()
    body = (asked.model, asked.bytes, asked.priority, float(asked.ttl_s), owner.agent_name, owner.pid)
    return msgspec.json.encode(body).decode()


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
    )


def lease(record: LeaseRecord, host: str, share: Share, expires_in_s: float) -> Lease:
    """The lease as lists and events show it."""
    return Lease(
        lease_id=record.lease_id,
        model=record.model,
        bytes=record.bytes,
        measured_bytes=share.measured_bytes,
        verified=share.verified,
        priority=record.priority,
        host=host,
        card=record.card,
        card_uuid=record.card_uuid,
        fencing_token=record.fencing_token,
        owner=record.owner,
        identity=record.identity,
        ttl_s=record.ttl_s,
        expires_in_s=expires_in_s,
        granted_at=record.granted_at,
    )


def note(record: LeaseRecord, host: str, decision: End | Literal["renewed"], reason: str, at: Timestamp) -> Note:
    """The receipt for what became of a lease."""
    receipt = Receipt(
        at=at,
        lease_id=record.lease_id,
        model=record.model,
        decision=decision,
        need_bytes=record.bytes,
        free_bytes=0,
        host=host,
        card_uuid=record.card_uuid,
        reason=reason,
    )
    return Note(receipt, record.idempotency_key)


def choice_note(asked: AdmitLease, choice: Choice, at: Timestamp) -> Note:
    """The receipt for what became of a request at a card's host."""
    receipt = Receipt(
        at=at,
        lease_id=asked.lease_id,
        model=asked.model,
        decision="granted" if choice.card else "refused",
        need_bytes=asked.bytes,
        free_bytes=choice.free_bytes,
        host=choice.card.host if choice.card else "",
        card_uuid=choice.card.uuid if choice.card else "",
        reason=choice.reason,
        cards=choice.verdicts,
    )
    return Note(receipt, asked.idempotency_key)
