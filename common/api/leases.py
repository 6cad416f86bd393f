"""A lease of VRAM: how it is asked for, held and given back, and what is told of it.

ResourceManager speaks it over both hosts' cards, and each supervisor over its own, in the same words. What a card measures
stands in `gpus`, why a lease went as it did in `decisions`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from common.api.host_memory import Cores
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

Cgroup = Annotated[
    str, Meta(max_length=4_096, pattern=r"^(/.+)?\Z", description="a path as /proc/PID/cgroup shows it; empty: none")
]


class Owner(Message, frozen=True):
    """The process whose life the lease hangs on; the card's host pins it by `pid` and `start_time` (0: looked up there).

    What it and its descendants hold on the card is the lease's, and so is what the processes in `cgroup` and below it hold: those
    of a container, which descend from a daemon and not from whoever asked for it.
    """

    agent_name: str = ""
    host: str = ""
    pid: Count = 0
    start_time: Count = 0
    cgroup: Cgroup = ""


Config = Annotated[str, Meta(max_length=512, description="what makes two loads of one model differ in size")]
Cards = Annotated[int, Meta(ge=1, le=16, description="cards of one host")]
Files = Annotated[list[Annotated[str, Meta(pattern="^/", max_length=4_096)]], Meta(max_length=64)]
LeaseStateName = Literal["held", "parked", "expiring"]
LeaseEnd = Literal["released", "expired", "owner-died", "evicted", "card-lost"]


class Unload(Message, frozen=True):
    """How an owner gives its memory back when asked: verbs of the process that serves `port` on its host's loopback.

    `sleep` moves the weights to host RAM and keeps the process warm, `unload` lets go of them; empty: it has no such verb. Each
    is called with the model's name and the lease's id, and has `timeout_s`. What it answers is a claim; the card says what is
    true.
    """

    port: Count = 0
    sleep: str = ""
    unload: str = ""
    timeout_s: Seconds = 10.0


class AcquireLease(Message, frozen=True):
    """Asks for `bytes` of VRAM on a card for `model`; waits up to `wait_s` in a queue by priority with ageing.

    `host` says where, empty for anywhere: whoever uses the card itself names its own host, for no process reaches another's.
    `config` tells apart loads of one model that differ in size. `cards` above 1 asks for as many cards of one host, `bytes` on
    each, all or none. `exclusive` wants each card to itself. `share` joins a live lease of the same model and config where
    there is one, and costs no bytes then. A `pinned` lease is never evicted. Not `in_use` from the start, a lease may be
    evicted at once; its holder says when that changes (`mark_lease`). `ram_bytes`, `disk_bytes` and `cpu_cores` are leased on
    the card's host with it. `load_s` is how long a load is expected to take (0: not known), `files` what must exist on the
    host, by absolute paths. `unload` is how its owner gives memory back; without it the owner's process is ended when its
    lease is evicted.
    """

    model: Name
    bytes: Bytes
    priority: Priority = DEFAULT_PRIORITY
    ttl_s: Seconds = 60.0
    host: str = ""
    card_uuid: str = ""
    owner: Owner | None = None
    idempotency_key: Key = ""
    wait_s: Seconds = 0.0
    config: Config = ""
    cards: Cards = 1
    exclusive: bool = False
    share: bool = False
    pinned: bool = False
    in_use: bool = True
    ram_bytes: Bytes = 0
    disk_bytes: Bytes = 0
    cpu_cores: Cores = 0.0
    load_s: Seconds = 0.0
    files: Files = []
    unload: Unload | None = None


class LeaseGranted(Message, frozen=True):
    """A committed lease: `card` is NVML's index on `host`; `fencing_token` is epoch x 2^32 + counter, below 2^53.

    `card_uuids` are all its cards, `card_uuid` the first. `shares` is the lease whose bytes it uses, empty for one with its own.
    """

    lease_id: Id
    host: str
    card: Count
    card_uuid: str
    fencing_token: Count
    expires_in_s: Seconds
    bytes: Bytes
    card_uuids: list[str] = []
    shares: str = ""


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


class MarkLease(Message, frozen=True):
    """Says of a lease that it is in use or idle, or that its model is loaded by now; null leaves it as it is.

    `cgroup` says in which cgroup its owner's container runs, known only after the grant; empty: in none any more.

    Refused with `stale_fence` when the token is not the current one, or the lease is expiring.
    """

    lease_id: Id
    fencing_token: Count
    in_use: bool | None = None
    loaded: bool | None = None
    cgroup: Cgroup | None = None


class LeaseMarked(Message, frozen=True):
    """The lease as it stands after the mark."""

    state: LeaseStateName
    in_use: bool
    loaded: bool


class ReleaseLease(Message, frozen=True):
    """Gives the bytes back; doing so twice is not an error, doing so with an old token is.

    A parked lease is given back with the token that its holder had when it was put to sleep.
    """

    lease_id: Id
    fencing_token: Count


class Lease(Message, frozen=True):
    """A lease as lists show it; `measured_bytes` is what NVML sees its owner's processes hold.

    `declared_bytes` is what was asked for, `bytes` what is leased: a parked lease keeps its residual, one that was seen to hold
    more is corrected. `users` are the shares that live; `idle_s` is since its last use, `gap_s` the smoothed time between uses.
    `reason` says why it is expiring or was corrected. `given_back`: its holder let go of it, and it ends with the last share.
    """

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
    config: str = ""
    state: LeaseStateName = "held"
    in_use: bool = True
    loaded: bool = False
    pinned: bool = False
    exclusive: bool = False
    shares: str = ""
    users: Count = 0
    card_uuids: list[str] = []
    declared_bytes: Bytes = 0
    ram_bytes: Bytes = 0
    disk_bytes: Bytes = 0
    cpu_cores: Cores = 0.0
    idle_s: Seconds = 0.0
    gap_s: Seconds = 3_600.0
    load_s: Seconds = 0.0
    reason: str = ""
    given_back: bool = False


class ListLeases(Message, frozen=True):
    """All leases, or one host's."""

    host: str = ""


class Leases(Message, frozen=True):
    """The leases and, per host that could not be asked, why its part is old or missing."""

    leases: list[Lease]
    as_of: Cursor
    missing: dict[str, str] = {}


class LeaseChanged(Message, frozen=True):
    """A lease came into being, was renewed or ended; the entity in the header is its id.

    `may-return`: it had made way for a program without a lease, and there is room again for what it held, if its holder wants it.
    The lease is then told as it was before it went.
    """

    change: Literal["granted", "marked", "expiring", "parked", "corrected", "may-return", LeaseEnd]
    lease: Lease
    reason: str = ""


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
MARK_LEASE = Verb(
    "mark_lease", MarkLease, LeaseMarked, Access.USE, summary="say that a lease is in use, idle or loaded"
)
RELEASE_LEASE = Verb("release_lease", ReleaseLease, Empty, Access.USE, summary="give a lease's bytes back")
LIST_LEASES = Verb("list_leases", ListLeases, Leases, Access.READ, summary="leases with what they measure")

VERBS = (ACQUIRE_LEASE, RENEW_LEASE, RELEASE_LEASE, LIST_LEASES)

LEASE_CHANGED = Topic("leases.changed", LeaseChanged, "a lease came into being or ended")
