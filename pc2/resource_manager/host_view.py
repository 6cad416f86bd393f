"""What one supervisor last said of its cards and leases, and what its cards are therefore planned with.

The bytes of a lease that the cards' figures show and that has ended since are taken for free until the next figures: whether
they are is for the supervisor to see, which is asked. A host that is lost or silent keeps its cards, closed, with the reason. It
decides nothing and asks nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import inf

from common.api.gpus import Card
from common.api.leases import Lease
from common.vram.demand import ModelKey
from common.vram.ledger import LedgerPolicy, capacity
from common.vram.placement import Candidate
from pc2.resource_manager import residents

UNHEARD = "has not been heard from yet"


@dataclass(slots=True)
class HostView:
    """One host as last heard; `absent` is why it cannot be asked, `paused_until` until when it rests.

    `tenants` are the leases with bytes of their own, by card; `alike` those by model and config. `shown` are the leases that the
    cards' figures include, `freed` the bytes by card of those of them that have ended. `caps` are bytes by card that it
    refused since it last published, `limits` those that it said a card can never hold.
    """

    policy: LedgerPolicy
    absent: str = UNHEARD
    problem: str = ""
    heard_at: float | None = None
    paused_until: float = 0.0
    cards: dict[str, Card] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    said_at: dict[str, float] = field(default_factory=dict)
    tenants: dict[str, dict[str, Lease]] = field(default_factory=dict)
    alike: dict[ModelKey, dict[str, None]] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    freed: dict[str, int] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)

    def published(self, cards: Iterable[Card], problem: str, now: float) -> None:
        """Takes in its cards as it published them; figures it was refused by are believed again."""
        self.heard_at, self.problem = now, problem
        self.caps.clear()
        there = {card.card_uuid: card for card in cards}
        if there or not problem:
            self.cards, self.shown = there, set(self.leases)
            self.freed.clear()

    def said(self, lease: Lease, now: float) -> None:
        """The lease as it has it now; it stays on the cards that it was granted on."""
        self.leases[lease.lease_id], self.said_at[lease.lease_id] = lease, now
        for uuid in residents.cards_of(lease):
            self.alike.setdefault(ModelKey(lease.model, lease.config), {})[lease.lease_id] = None
            self.tenants.setdefault(uuid, {})[lease.lease_id] = lease

    def ended(self, lease: Lease) -> None:
        """The lease is over."""
        self.leases.pop(lease.lease_id, None)
        self.said_at.pop(lease.lease_id, None)
        key = ModelKey(lease.model, lease.config)
        alike = self.alike.get(key, {})
        alike.pop(lease.lease_id, None)
        if not alike:
            self.alike.pop(key, None)
        shown = lease.lease_id in self.shown
        self.shown.discard(lease.lease_id)
        for uuid in residents.cards_of(lease):
            self.tenants.get(uuid, {}).pop(lease.lease_id, None)
            self.caps.pop(uuid, None)
            if shown:
                self.freed[uuid] = self.freed.get(uuid, 0) + lease.bytes

    def forget_leases(self) -> None:
        """Its whole table is told anew."""
        self.leases, self.said_at, self.tenants, self.alike = {}, {}, {}, {}

    def sharable(self, key: ModelKey, card_uuid: str, declined: Collection[str]) -> Lease | None:
        """A held lease of the model, on that card if one is named; none of the `declined`."""
        for lease_id in self.alike.get(key, ()):
            lease = self.leases[lease_id]
            is_open = lease.state == "held" and not lease.given_back and lease_id not in declined
            if is_open and (not card_uuid or card_uuid in residents.cards_of(lease)):
                return lease
        return None

    def closed(self, now: float) -> str:
        """Why its cards take nothing now; empty where they may."""
        if self.absent or self.problem:
            return self.absent or self.problem
        if now < self.paused_until:
            return "could not take a request just now"
        if self.heard_at is None:
            return "has not published its cards yet"
        return f"cards last heard of {now - self.heard_at:.1f} s ago" if now > self._stale_at else ""

    def turns_at(self, now: float) -> float:
        """When it may close or open next by nothing but the time."""
        if now < self.paused_until:
            return self.paused_until
        return inf if self.closed(now) else self._stale_at

    def candidate(self, card: Card, closed: str, in_flight: int) -> Candidate:
        """The card as placement sees it, with so many bytes in flight; `closed` says why the host takes nothing."""
        uuid = card.card_uuid
        limit = self.limits.get(uuid)
        most = capacity(card.total_bytes, self.policy) if limit is None else limit - 1
        free = card.grantable_bytes + self.freed.get(uuid, 0) - in_flight
        free = min(free, self.caps.get(uuid, free + 1) - 1, most)
        problem = closed or ("" if card.schedulable else card.reason or "not schedulable")
        there = self.tenants.get(uuid, {})
        return Candidate(
            card.host,
            card.card,
            uuid,
            0 if problem else max(0, free),
            most,
            problem,
            len(there),
            any(lease.exclusive for lease in there.values()),
            card.pinned_bytes,
        )

    @property
    def _stale_at(self) -> float:
        return inf if self.heard_at is None else self.heard_at + self.policy.stale_s
