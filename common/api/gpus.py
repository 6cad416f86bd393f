"""The figures of the cards and their hosts, as measured and as leased; they tell what is there, and grant nothing.

ResourceManager shows both hosts', and each supervisor its own, in the same words.
"""

from __future__ import annotations

from common.api.host_memory import HostMemory
from common.api.words import Access, Bytes, Count, Message, Topic, Verb


class Card(Message, frozen=True):
    """One card, as measured and as leased; `schedulable` False comes with the reason.

    The figures add up: total = free + measured (held by the leases' owners) + strangers + nameless (held by no listed process).
    Grantable is what the ledger makes of them (ARCHITECTURE): never more than free, less `guard_bytes`, `reserved_bytes` (kept
    for requests for which room was made) and `quarantined_bytes` (held by evicted leases that would not go).

    `throttled` says why its clocks are lower than they could be: `hw-thermal`, `hw-power-brake`, `hw-slowdown`, `sw-thermal`,
    `power-cap`. `mig`: it is divided, and so is not leased. Watts and words are 0 and empty where the card does not tell.
    """

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
    measured_bytes: Bytes = 0
    nameless_bytes: Bytes = 0
    guard_bytes: Bytes = 0
    reserved_bytes: Bytes = 0
    quarantined_bytes: Bytes = 0
    pinned_bytes: Bytes = 0
    reservations: dict[str, Bytes] = {}
    loading: str = ""
    power_w: float = 0.0
    power_limit_w: float = 0.0
    throttled: list[str] = []
    mig: bool = False


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
    hosts: list[HostMemory] = []


class CardsSampled(Message, frozen=True):
    """What the host's cards measured, once a sampling interval, or why they could not be measured."""

    host: str
    cards: list[Card]
    problem: str = ""


GET_GPUS = Verb("get_gpus", GetGpus, Gpus, Access.READ, summary="cards: total, free, leased, measured")

VERBS = (GET_GPUS,)

CARDS_SAMPLED = Topic("cards.sampled", CardsSampled, "what the cards measured")
