"""Intents: what the planner is about to ask of a supervisor, remembered before it asks.

An intent ties a request (and its idempotency key) to one lease id at one host. After a crash the same key leads to the same
supervisor and the same lease id, which that supervisor grants at most once. Nothing here decides or stores.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from common.api.leases import AcquireLease
from common.api.words import Timestamp
from common.store.protocol import Change, RecordStore
from common.store.records import Records
from common.vram.lease_view import body_of


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One lease id, where it is asked for, and the request as it came."""

    lease_id: str
    host: str
    card_uuid: str
    identity: str
    request: AcquireLease
    at: Timestamp


class IntentRecorded(msgspec.Struct, frozen=True, tag="intent-recorded"):
    """The planner will ask this; in place of an earlier intent with the same lease id."""

    intent: Intent


class IntentForgotten(msgspec.Struct, frozen=True, tag="intent-forgotten"):
    """The lease id needs no memory any more: delivered to a request without a key, refused, or too old."""

    lease_id: str


IntentFact: TypeAlias = IntentRecorded | IntentForgotten


def body(request: AcquireLease) -> str:
    """What an idempotency key stands for at the planner: all of the request but its patience."""
    return f"{body_of(request)} {request.host} {request.card_uuid}"


INTENTS: Final = Records("lease_intents", Intent)


def rows(fact: IntentFact) -> tuple[Change, ...]:
    """The change a fact makes to the table of intents, to be committed NORMAL."""
    if isinstance(fact, IntentRecorded):
        return (INTENTS.put(fact.intent.lease_id, fact.intent),)
    return (INTENTS.delete(fact.lease_id),)


def load(store: RecordStore) -> list[Intent]:
    """The intents that the store holds, oldest first; raises CorruptRecord, and StorageUnavailable."""
    return sorted((intent for _, intent in INTENTS.load(store)), key=lambda intent: intent.at)
