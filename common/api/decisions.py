"""Decisions about VRAM: what would happen to a request, and the receipts of what happened and why.

A plan changes nothing, and a receipt is never taken back. How a lease is asked for stands in `leases`.
"""

from __future__ import annotations

from typing import Any, Literal

from common.api.host_memory import Cores
from common.api.leases import Cards, Config, Files
from common.api.words import (
    DEFAULT_PRIORITY,
    Access,
    Bytes,
    Count,
    Id,
    Message,
    Name,
    Priority,
    Seconds,
    Timestamp,
    Verb,
)

RungName = Literal["sleep", "unload", "checkpoint", "stop", "term", "kill", "quarantine"]


class PlanLease(Message, frozen=True):
    """What would happen to this request now; nothing is changed. The fields are those of `acquire_lease`."""

    model: Name
    bytes: Bytes
    priority: Priority = DEFAULT_PRIORITY
    host: str = ""
    card_uuid: str = ""
    config: Config = ""
    cards: Cards = 1
    exclusive: bool = False
    share: bool = False
    pinned: bool = False
    ram_bytes: Bytes = 0
    disk_bytes: Bytes = 0
    cpu_cores: Cores = 0.0
    files: Files = []


class Victim(Message, frozen=True):
    """A lease that an eviction weighed, its price, and why it was chosen or not.

    The price is the seconds of load that its going is expected to cost, by bytes^0.75; `want` the chance of its use within the
    horizon. `put_back`: chosen at first, and not needed in the end.
    """

    lease_id: str
    model: str
    bytes: Bytes
    priority: Priority
    idle_s: Seconds
    want: float
    load_s: Seconds
    price: float
    chosen: bool
    reason: str = ""
    put_back: bool = False


class Rung(Message, frozen=True):
    """One rung of an eviction: what was done, what was answered, and what the card showed the owner to hold before and after.

    Where its processes are hidden the bytes are told by the card's free ones, and `verified` is false.
    """

    rung: RungName
    claimed: str
    took_s: Seconds
    bytes_before: Bytes
    bytes_after: Bytes
    outcome: Literal["freed", "part", "nothing", "failed"]
    verified: bool = True


class CardVerdict(Message, frozen=True):
    """Why a card would or would not take a request; `grantable_bytes` is what the ledger could grant on it.

    `price` is that of the dearest lease that would have to go, 0 where none has to.
    """

    host: str
    card: Count
    card_uuid: str
    feasible: bool
    grantable_bytes: Bytes
    reason: str
    victims: list[Victim] = []
    price: float = 0.0


class LeasePlan(Message, frozen=True):
    """The card that would be chosen (empty: none), whether others go for it or the request would wait, and every card's verdict.

    `share` is a lease that would be joined; `victims` are what would be evicted, with what was weighed against them.
    """

    outcome: Literal["grant", "share", "evict", "wait", "never"]
    host: str
    card_uuid: str
    need_bytes: Bytes
    free_bytes: Bytes
    reason: str
    cards: list[CardVerdict]
    victims: list[Victim] = []
    share: str = ""
    load_s: Seconds = 0.0


Decided = Literal[
    "granted",
    "refused",
    "queued",
    "renewed",
    "released",
    "expired",
    "owner-died",
    "withdrawn",
    "expiring",
    "evicted",
    "parked",
    "unparked",
    "quarantined",
    "corrected",
    "yielded",
    "card-lost",
]


class Explain(Message, frozen=True):
    """Asks for the receipts about a lease id, a request's idempotency key or a model, newest first."""

    subject: Id
    limit: Count = 20


class Receipt(Message, frozen=True):
    """One decision about VRAM and why it went as it did.

    Of an eviction: what was weighed (`victims`), for whom (`details.for`), the rungs with what each returned, the bytes expected
    and returned as measured, and the seconds of load that it is expected to cost.
    """

    at: Timestamp
    lease_id: str
    model: str
    decision: Decided
    need_bytes: Bytes
    free_bytes: Bytes
    host: str
    card_uuid: str
    reason: str
    cards: list[CardVerdict] = []
    details: dict[str, Any] = {}
    victims: list[Victim] = []
    rungs: list[Rung] = []
    expected_bytes: Bytes = 0
    returned_bytes: Bytes = 0
    lost_s: Seconds = 0.0


class Explanation(Message, frozen=True):
    """The receipts, newest first."""

    receipts: list[Receipt]


PLAN = Verb("plan", PlanLease, LeasePlan, Access.READ, summary="what would happen to a request for a lease")
EXPLAIN = Verb("explain", Explain, Explanation, Access.READ, summary="receipts of decisions about a lease or model")

VERBS = (PLAN, EXPLAIN)
