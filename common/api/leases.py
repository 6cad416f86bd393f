"""VRAM leases: spoken by ResourceManager over both hosts' cards, and by each supervisor over its own, in the same words."""

from __future__ import annotations

from typing import Any, Literal

from common.api.words import (
    DEFAULT_PRIORITY,
    Access,
    Bytes,
    Count,
    Cursor,
    Empty,
    Id,
    Key,
    Message,
    Name,
    Priority,
    Seconds,
    Timestamp,
    Topic,
    Verb,
)


class Owner(Message, frozen=True):
    """The process whose life the lease hangs on; the card's host pins it by `pid` and `start_time` (0: looked up there)."""

    agent_name: str = ""
    host: str = ""
    pid: Count = 0
    start_time: Count = 0


class AcquireLease(Message, frozen=True):
    """Asks for `bytes` of VRAM on one card for `model`; waits up to `wait_s` in a queue by priority with ageing."""

    model: Name
    bytes: Bytes
    priority: Priority = DEFAULT_PRIORITY
    ttl_s: Seconds = 60.0
    host: str = ""
    card_uuid: str = ""
    owner: Owner | None = None
    idempotency_key: Key = ""
    wait_s: Seconds = 0.0


class LeaseGranted(Message, frozen=True):
    """A committed lease: `card` is NVML's index on `host`; `fencing_token` is epoch x 2^32 + counter, below 2^53."""

    lease_id: Id
    host: str
    card: Count
    card_uuid: str
    fencing_token: Count
    expires_in_s: Seconds
    bytes: Bytes


class LeaseProgress(Message, frozen=True):
    """Streamed while a request for a lease waits: its place (1 is next), what it needs and the most any fit card has free."""

    position: Count
    need_bytes: Bytes
    free_bytes: Bytes
    waited_s: Seconds
    reason: str


class RenewLease(Message, frozen=True):
    """Starts the lease's TTL anew; refused with `stale_fence` unless the token is the current one."""

    lease_id: Id
    fencing_token: Count


class LeaseRenewed(Message, frozen=True):
    """The TTL as it stands after the renewal."""

    expires_in_s: Seconds


class ReleaseLease(Message, frozen=True):
    """Gives the bytes back; doing so twice is not an error, doing so with an old token is."""

    lease_id: Id
    fencing_token: Count


class Lease(Message, frozen=True):
    """A lease as lists show it; `measured_bytes` is what NVML sees its owner's processes hold."""

    lease_id: Id
    model: str
    bytes: Bytes
    measured_bytes: Bytes
    verified: bool
    priority: Priority
    host: str
    card: Count
    card_uuid: str
    fencing_token: Count
    owner: Owner
    identity: str
    ttl_s: Seconds
    expires_in_s: Seconds
    granted_at: Timestamp


class ListLeases(Message, frozen=True):
    """All leases, or one host's."""

    host: str = ""


class Leases(Message, frozen=True):
    """The leases and, per host that could not be asked, why its part is old or missing."""

    leases: list[Lease]
    as_of: Cursor
    missing: dict[str, str] = {}


class Card(Message, frozen=True):
    """One card, as measured and as leased; `schedulable` False comes with the reason."""

    host: str
    card: Count
    card_uuid: str
    name: str
    total_bytes: Bytes
    free_bytes: Bytes
    leased_bytes: Bytes
    used_bytes: Bytes
    grantable_bytes: Bytes
    simulated: bool
    schedulable: bool = True
    reason: str = ""
    temperature_c: float = 0.0
    utilization_pct: float = 0.0
    strangers: list[Stranger] = []


class Stranger(Message, frozen=True):
    """A process that holds VRAM without a lease: seen, named, never killed."""

    pid: Count
    name: str
    bytes: Bytes


class GetGpus(Message, frozen=True):
    """All cards, or one host's."""

    host: str = ""


class Gpus(Message, frozen=True):
    """The cards and, per host that could not be asked, why its part is old or missing."""

    cards: list[Card]
    missing: dict[str, str] = {}


class PlanLease(Message, frozen=True):
    """What would happen to this request now; nothing is changed."""

    model: Name
    bytes: Bytes
    priority: Priority = DEFAULT_PRIORITY
    host: str = ""
    card_uuid: str = ""


class CardVerdict(Message, frozen=True):
    """Why a card would or would not take a request; `grantable_bytes` is what the ledger could grant on it."""

    host: str
    card: Count
    card_uuid: str
    feasible: bool
    grantable_bytes: Bytes
    reason: str


class LeasePlan(Message, frozen=True):
    """The card that would be chosen (empty: none), whether the request would wait, and every card's verdict."""

    outcome: Literal["grant", "wait", "never"]
    host: str
    card_uuid: str
    need_bytes: Bytes
    free_bytes: Bytes
    reason: str
    cards: list[CardVerdict]


class Explain(Message, frozen=True):
    """Asks for the receipts about a lease id, a request's idempotency key or a model, newest first."""

    subject: Id
    limit: Count = 20


class Receipt(Message, frozen=True):
    """One decision about VRAM and why it went as it did."""

    at: Timestamp
    lease_id: str
    model: str
    decision: Literal["granted", "refused", "queued", "renewed", "released", "expired", "owner-died", "withdrawn"]
    need_bytes: Bytes
    free_bytes: Bytes
    host: str
    card_uuid: str
    reason: str
    cards: list[CardVerdict] = []
    details: dict[str, Any] = {}


class Explanation(Message, frozen=True):
    """The receipts, newest first."""

    receipts: list[Receipt]


class LeaseChanged(Message, frozen=True):
    """A lease came into being, was renewed or ended; the entity in the header is its id."""

    change: Literal["granted", "released", "expired", "owner-died"]
    lease: Lease
    reason: str = ""


class CardsSampled(Message, frozen=True):
    """What the host's cards measured, once a sampling interval, or why they could not be measured."""

    host: str
    cards: list[Card]
    problem: str = ""


ACQUIRE_LEASE = Verb(
    "acquire_lease",
    AcquireLease,
    LeaseGranted,
    Access.USE,
    idempotent=False,
    part=LeaseProgress,
    summary="lease VRAM on a card, waiting up to wait_s",
)
RENEW_LEASE = Verb("renew_lease", RenewLease, LeaseRenewed, Access.USE, summary="start a lease's TTL anew")
RELEASE_LEASE = Verb("release_lease", ReleaseLease, Empty, Access.USE, summary="give a lease's bytes back")
LIST_LEASES = Verb("list_leases", ListLeases, Leases, Access.READ, summary="leases with what they measure")
GET_GPUS = Verb("get_gpus", GetGpus, Gpus, Access.READ, summary="cards: total, free, leased, measured")
PLAN = Verb("plan", PlanLease, LeasePlan, Access.READ, summary="what would happen to a request for a lease")
EXPLAIN = Verb("explain", Explain, Explanation, Access.READ, summary="receipts of decisions about a lease or model")

VERBS = (ACQUIRE_LEASE, RENEW_LEASE, RELEASE_LEASE, LIST_LEASES, GET_GPUS, PLAN, EXPLAIN)

LEASE_CHANGED = Topic("leases.changed", LeaseChanged, "a lease came into being or ended")
CARDS_SAMPLED = Topic("cards.sampled", CardsSampled, "what the cards measured")
