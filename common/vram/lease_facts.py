"""The facts of one host's lease table, and the rows they leave behind.

A fact says what was decided, never how to decide it again. `rows` turns a fact into changes of the current-state tables;
from those rows alone a table is rebuilt. The fence epoch is committed FULL, leases NORMAL: a power cut empties the cards
anyway, but it must not bring an old token back. Room reserved for requests leaves no row: whoever still wants it asks again.
"""

from __future__ import annotations

from typing import Final, TypeAlias, get_args

import msgspec

from common.api.decisions import Victim
from common.api.leases import LeaseEnd, LeaseStateName, Owner, Unload
from common.api.words import Timestamp
from common.store.protocol import Change, RecordStore
from common.store.records import Records
from common.vram.cards import ProcessId

EPOCH_KEY: Final = "epoch"

End: TypeAlias = LeaseEnd

ENDS: Final[frozenset[str]] = frozenset(get_args(End))

REASONS: Final[dict[End, str]] = {
    "released": "its holder gave it back",
    "expired": "its TTL ran out without a renewal",
    "owner-died": "the process it hung on ended",
    "evicted": "it was evicted",
    "card-lost": "its card is gone",
}


class FurtherCard(msgspec.Struct, frozen=True):
    """One more card of a lease on several, and the nameless bytes that it found there."""

    uuid: str
    base_bytes: int


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A live lease as it is remembered. Its TTL is not: it starts anew, in full, when a table is rebuilt.

    `bytes` are counted on each of its cards: as asked, as corrected, or what a parked one keeps. `body` is what the idempotency
    key stands for; `base_bytes` the nameless bytes on the first card at the grant (ledger). `shares` names the lease whose
    bytes it uses. `parked_bytes` are its weights in host RAM. `reason` says why it is expiring (for `for_lease`, at an expected
    cost of `lost_s` seconds of load; `for_good`: not to sleep) or was corrected. `given_back`: its holder let go of it while
    others share it. `asked_as` is the lease id under which a parked one was last asked for, `slept_token` the token that its
    holder had when it was parked.
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
    config: str = ""
    declared_bytes: int = 0
    further: tuple[FurtherCard, ...] = ()
    state: LeaseStateName = "held"
    in_use: bool = True
    loaded: bool = False
    pinned: bool = False
    exclusive: bool = False
    shares: str = ""
    ram_bytes: int = 0
    disk_bytes: int = 0
    cpu_cores: float = 0.0
    parked_bytes: int = 0
    load_s: float = 0.0
    unload: Unload | None = None
    reason: str = ""
    for_lease: str = ""
    lost_s: float = 0.0
    for_good: bool = False
    given_back: bool = False
    asked_as: str = ""
    slept_token: int = 0

    @property
    def card_uuids(self) -> tuple[str, ...]:
        """All its cards, the first one first; none of a lease of its host alone."""
        if self.further:
            return self.card_uuid, *(each.uuid for each in self.further)
        return (self.card_uuid,) if self.card_uuid else ()

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Each card whose bytes it counts, with the nameless bytes found there; none of a share, or of a lease of no card."""
        if self.shares or not self.card_uuid:
            return ()
        return ((self.card_uuid, self.base_bytes), *((each.uuid, each.base_bytes) for each in self.further))


class EndedLease(msgspec.Struct, frozen=True, kw_only=True):
    """What stays known of a lease that ended, so that its id and its key are never granted again."""

    lease_id: str
    fencing_token: int
    identity: str
    idempotency_key: str
    body: str
    end: End
    reason: str = ""

    @property
    def why(self) -> str:
        """How it ended, in a sentence."""
        return self.reason or REASONS[self.end]


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on each of some cards that an evicted lease's process would not let go of."""

    lease_id: str
    model: str
    bytes: int
    owner: ProcessId
    places: tuple[FurtherCard, ...]


class EpochOpened(msgspec.Struct, frozen=True, tag="epoch-opened"):
    """A fence epoch; it must survive power loss before any lease of it is granted."""

    epoch: int


class Granted(msgspec.Struct, frozen=True, tag="lease-granted"):
    """A lease came into being."""

    record: LeaseRecord


class Renewed(msgspec.Struct, frozen=True, tag="lease-renewed"):
    """A lease's TTL began anew; leaves no row, for a rebuilt table begins every TTL anew."""

    lease_id: str


class Marked(msgspec.Struct, frozen=True, tag="lease-marked"):
    """Its holder said that a lease is in use, idle or loaded; `used` when that was a use."""

    record: LeaseRecord
    used: bool = False


class GivenBack(msgspec.Struct, frozen=True, tag="lease-given-back"):
    """Its holder let go of a lease that others share: it goes on, without a TTL, until the last of them has ended."""

    record: LeaseRecord


class Expiring(msgspec.Struct, frozen=True, tag="lease-expiring"):
    """A lease has to go; nothing is admitted to it any more. `idle_s` is how long it had not been used."""

    record: LeaseRecord
    idle_s: float = 0.0

    @property
    def lease_id(self) -> str:
        """The lease."""
        return self.record.lease_id

    @property
    def for_lease(self) -> str:
        """The request for which it goes."""
        return self.record.for_lease

    @property
    def reason(self) -> str:
        """Why it goes."""
        return self.record.reason


class Parked(msgspec.Struct, frozen=True, tag="lease-parked"):
    """Its owner sleeps: the lease keeps what is left on the card, under a token that nobody holds."""

    record: LeaseRecord


class Unparked(msgspec.Struct, frozen=True, tag="lease-unparked"):
    """A parked lease was asked for by its owner: it is held again, under a new token."""

    record: LeaseRecord


class Corrected(msgspec.Struct, frozen=True, tag="lease-corrected"):
    """A lease counts what its owner was measured to hold."""

    record: LeaseRecord


class Rebound(msgspec.Struct, frozen=True, tag="lease-rebound"):
    """A lease hangs on another process."""

    record: LeaseRecord


class Ended(msgspec.Struct, frozen=True, tag="lease-ended"):
    """A lease ended and its bytes are no longer promised."""

    lease: EndedLease


class Quarantined(msgspec.Struct, frozen=True, tag="bytes-quarantined"):
    """Bytes of a lease that ends with this stay under its owner's name; comes before its end."""

    quarantine: Quarantine


class QuarantineLifted(msgspec.Struct, frozen=True, tag="quarantine-lifted"):
    """The bytes of a quarantine, or their process, are gone."""

    lease_id: str


class Reserved(msgspec.Struct, frozen=True, tag="room-reserved"):
    """Bytes of a card are kept for a lease id until a moment of this host's monotonic clock; `victims` go for it."""

    lease_id: str
    card_uuid: str
    bytes: int
    exclusive: bool
    until: float
    victims: tuple[str, ...] = ()
    weighed: tuple[Victim, ...] = ()
    within_s: float = 0.0


class HostReserved(msgspec.Struct, frozen=True, tag="host-room-reserved"):
    """So much of the host's RAM, disk and cores is kept for a lease id, beyond what the lease `own`, which it wakes, has."""

    lease_id: str
    model: str
    ram_bytes: int
    disk_bytes: int
    cpu_cores: float
    until: float
    own: str = ""


class Unreserved(msgspec.Struct, frozen=True, tag="room-unreserved"):
    """Nothing is kept for the lease id any more."""

    lease_id: str


class Forgotten(msgspec.Struct, frozen=True, tag="leases-forgotten"):
    """Leases that ended so long ago, or so many ago, that their ids and keys are free again."""

    lease_ids: tuple[str, ...]


Changed: TypeAlias = Marked | GivenBack | Expiring | Parked | Unparked | Corrected | Rebound
"""A live lease is another one now: the fact carries it whole."""
CHANGED: Final = (Marked, GivenBack, Expiring, Parked, Unparked, Corrected, Rebound)

Fact: TypeAlias = (
    EpochOpened
    | Granted
    | Renewed
    | Changed
    | Ended
    | Quarantined
    | QuarantineLifted
    | Reserved
    | HostReserved
    | Unreserved
    | Forgotten
)


FENCE: Final = Records("lease_fence", EpochOpened)
LIVE: Final = Records("leases", LeaseRecord)
ENDED: Final = Records("leases_ended", EndedLease)
QUARANTINE: Final = Records("leases_quarantined", Quarantine)


def ended(record: LeaseRecord, end: End, reason: str = "") -> Ended:
    """The fact that this lease ended so; `reason` where it is not the usual one."""
    return Ended(
        EndedLease(
            lease_id=record.lease_id,
            fencing_token=record.fencing_token,
            identity=record.identity,
            idempotency_key=record.idempotency_key,
            body=record.body,
            end=end,
            reason=reason,
        )
    )


def rows(fact: Fact) -> tuple[Change, ...]:
    """The changes a fact makes to the tables, to be committed together."""
    if isinstance(fact, EpochOpened):
        return (FENCE.put(EPOCH_KEY, fact),)
    if isinstance(fact, (Granted, *CHANGED)):
        return (LIVE.put(fact.record.lease_id, fact.record),)
    if isinstance(fact, Ended):
        return LIVE.delete(fact.lease.lease_id), ENDED.put(fact.lease.lease_id, fact.lease)
    if isinstance(fact, Quarantined):
        return (QUARANTINE.put(fact.quarantine.lease_id, fact.quarantine),)
    if isinstance(fact, QuarantineLifted):
        return (QUARANTINE.delete(fact.lease_id),)
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
    kept = (quarantine for _, quarantine in QUARANTINE.load(store))
    return [*map(Ended, past), *map(Granted, live), *map(Quarantined, kept), *epochs]
