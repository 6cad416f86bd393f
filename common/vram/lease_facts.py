"""The facts of one host's lease table, and the rows they leave behind.

A fact says what was decided, never how to decide it again. `rows` turns a fact into changes of the current-state tables;
from those rows alone a table is rebuilt. The fence epoch is committed FULL, leases NORMAL: a power cut empties the cards
anyway, but it must not bring an old token back.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from common.api.leases import Owner
from common.api.words import Timestamp
from common.store.protocol import Change, RecordStore
from common.store.records import Records

EPOCH_KEY: Final = "epoch"

End: TypeAlias = Literal["released", "expired", "owner-died"]


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A live lease as it is remembered. Its TTL is not: it starts anew, in full, when a table is rebuilt.

    `body` is what the idempotency key stands for; `base_bytes` the nameless bytes on the card at the grant (ledger).
    """

    lease_id: str
    model: str
    bytes: int
    priority: int
    card: int
    card_uuid: str
    fencing_token: int
    owner: Owner
    identity: str
    idempotency_key: str
    body: str
    ttl_s: float
    granted_at: Timestamp
    base_bytes: int


class EndedLease(msgspec.Struct, frozen=True, kw_only=True):
    """What stays known of a lease that ended, so that its id and its key are never granted again."""

    lease_id: str
    fencing_token: int
    identity: str
    idempotency_key: str
    body: str
    end: End


class EpochOpened(msgspec.Struct, frozen=True, tag="epoch-opened"):
    """A fence epoch; it must survive power loss before any lease of it is granted."""

    epoch: int


class Granted(msgspec.Struct, frozen=True, tag="lease-granted"):
    """A lease came into being."""

    record: LeaseRecord


class Renewed(msgspec.Struct, frozen=True, tag="lease-renewed"):
    """A lease's TTL began anew; leaves no row, for a rebuilt table begins every TTL anew."""

    lease_id: str


class Ended(msgspec.Struct, frozen=True, tag="lease-ended"):
    """A lease ended and its bytes are no longer promised."""

    lease: EndedLease


class Forgotten(msgspec.Struct, frozen=True, tag="leases-forgotten"):
    """Leases that ended so long ago, or so many ago, that their ids and keys are free again."""

    lease_ids: tuple[str, ...]


Fact: TypeAlias = EpochOpened | Granted | Renewed | Ended | Forgotten


FENCE: Final = Records("lease_fence", EpochOpened)
LIVE: Final = Records("leases", LeaseRecord)
ENDED: Final = Records("leases_ended", EndedLease)


def ended(record: LeaseRecord, end: End) -> Ended:
    """The fact that this lease ended so."""
    return Ended(
        EndedLease(
            lease_id=record.lease_id,
            fencing_token=record.fencing_token,
            identity=record.identity,
            idempotency_key=record.idempotency_key,
            body=record.body,
            end=end,
        )
    )


def rows(fact: Fact) -> tuple[Change, ...]:
    """The changes a fact makes to the tables, to be committed together."""
    if isinstance(fact, EpochOpened):
        return (FENCE.put(EPOCH_KEY, fact),)
    if isinstance(fact, Granted):
        return (LIVE.put(fact.record.lease_id, fact.record),)
    if isinstance(fact, Ended):
        return LIVE.delete(fact.lease.lease_id), ENDED.put(fact.lease.lease_id, fact.lease)
    if isinstance(fact, Forgotten):
        return tuple(map(ENDED.delete, fact.lease_ids))
    return ()


def load(store: RecordStore) -> list[Fact]:
    """The facts that rebuild what the store holds: leases that ended before those that live, each in order of tokens.

    Raises CorruptRecord, and StorageUnavailable while the store cannot be read.
    """
    epochs = (epoch for _, epoch in FENCE.load(store))
    past = sorted((lease for _, lease in ENDED.load(store)), key=lambda lease: lease.fencing_token)
    live = sorted((record for _, record in LIVE.load(store)), key=lambda record: record.fencing_token)
    return [*map(Ended, past), *map(Granted, live), *epochs]
