"""The facts of one host's lease table, and the rows they leave behind.

A fact is journalled once it is decided and says what happened, never how to decide it again. `rows` turns a fact into
key/value changes of the current-state tables; from those rows alone a table is rebuilt. Nothing here knows a store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from common.api.leases import Owner
from common.api.words import Timestamp

SCHEMA: Final = 1

FENCE, LIVE, ENDED = "lease_fence", "leases", "leases_ended"
TABLES: Final = (FENCE, LIVE, ENDED)
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
    schema: int = SCHEMA


class EndedLease(msgspec.Struct, frozen=True, kw_only=True):
    """What stays known of a lease that ended, so that its id and its key are never granted again."""

    lease_id: str
    fencing_token: int
    identity: str
    idempotency_key: str
    body: str
    end: End
    schema: int = SCHEMA


_Stored = TypeVar("_Stored", LeaseRecord, EndedLease)


class EpochOpened(msgspec.Struct, frozen=True, tag="epoch-opened"):
    """A fence epoch; it must survive power loss before any lease of it is granted."""

    epoch: int
    schema: int = SCHEMA


class Granted(msgspec.Struct, frozen=True, tag="lease-granted"):
    """A lease came into being."""

    record: LeaseRecord
    schema: int = SCHEMA


class Renewed(msgspec.Struct, frozen=True, tag="lease-renewed"):
    """A lease's TTL began anew; leaves no row, for a rebuilt table begins every TTL anew."""

    lease_id: str
    schema: int = SCHEMA


class Ended(msgspec.Struct, frozen=True, tag="lease-ended"):
    """A lease ended and its bytes are no longer promised."""

    lease: EndedLease
    schema: int = SCHEMA


class Forgotten(msgspec.Struct, frozen=True, tag="leases-forgotten"):
    """Leases that ended so long ago, or so many ago, that their ids and keys are free again."""

    lease_ids: tuple[str, ...]
    schema: int = SCHEMA


Fact: TypeAlias = EpochOpened | Granted | Renewed | Ended | Forgotten


class Row(NamedTuple):
    """One change of a current-state table; `value` None deletes the key."""

    table: str
    key: str
    value: bytes | None


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


def rows(fact: Fact) -> list[Row]:
    """The changes a fact makes to the tables TABLES, to be committed together."""
    if isinstance(fact, EpochOpened):
        return [Row(FENCE, EPOCH_KEY, msgspec.msgpack.encode(fact.epoch))]
    if isinstance(fact, Granted):
        return [Row(LIVE, fact.record.lease_id, msgspec.msgpack.encode(fact.record))]
    if isinstance(fact, Ended):
        lease_id = fact.lease.lease_id
        return [Row(LIVE, lease_id, None), Row(ENDED, lease_id, msgspec.msgpack.encode(fact.lease))]
    if isinstance(fact, Forgotten):
        return [Row(ENDED, lease_id, None) for lease_id in fact.lease_ids]
    return []


def facts(stored: Iterable[Row]) -> list[Fact]:
    """The facts that rebuild what the rows hold, in the order of their tokens, leases that ended before those that live.

    Raises ValueError where a row was written by a later schema, and msgspec.ValidationError where it is not one of ours.
    """
    epochs: list[Fact] = []
    live: list[LeaseRecord] = []
    past: list[EndedLease] = []
    for row in stored:
        if row.value is None:
            continue
        if row.table == FENCE:
            epochs.append(EpochOpened(msgspec.msgpack.decode(row.value, type=int)))
        elif row.table == LIVE:
            live.append(_current(msgspec.msgpack.decode(row.value, type=LeaseRecord)))
        elif row.table == ENDED:
            past.append(_current(msgspec.msgpack.decode(row.value, type=EndedLease)))
    past.sort(key=lambda lease: lease.fencing_token)
    live.sort(key=lambda record: record.fencing_token)
    return [*epochs, *map(Ended, past), *map(Granted, live)]


def _current(record: _Stored) -> _Stored:
    if record.schema > SCHEMA:
        raise ValueError(f"lease {record.lease_id} was written with schema {record.schema}; this one reads {SCHEMA}")
    return record
