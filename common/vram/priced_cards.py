"""One card's residents by price, and all cards in the order of what a request costs there at least.

These are what `residency` keeps between requests, so that it need not weigh every resident anew for each of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from math import inf
from typing import Final, NamedTuple

import msgspec

from common.vram.demand import Demand, ModelKey, want
from common.vram.eviction import Resident
from common.vram.placement import Candidate

OVERDUE_S: Final = 1.0
"""A load that should be over by now is expected to take so long yet."""


class Tenant(msgspec.Struct, frozen=True):
    """A lease on a card, as its owner tells of it; `bytes` on this card, `load_s` what loading it here again takes."""

    lease_id: str
    key: ModelKey
    bytes: int
    priority: int
    load_s: float
    pinned: bool = False
    in_use: bool = False
    expiring: bool = False

    def resident(self, demand: Demand, now: float) -> Resident:
        """The lease as an eviction weighs it at `now`."""
        return Resident(
            lease_id=self.lease_id,
            model=self.key.model,
            config=self.key.config,
            bytes=self.bytes,
            priority=self.priority,
            pinned=self.pinned,
            in_use=self.in_use,
            expiring=self.expiring,
            idle_s=demand.idle(self.key, now),
            gap_s=demand.gap(self.key),
            load_s=self.load_s,
        )


class Priced(NamedTuple):
    """A resident that may go, and its price."""

    price: float
    lease_id: str
    bytes: int


class PricedCard:
    """One card: its tenants, and of those that may go the prices in order with the bytes up to each."""

    __slots__ = ("card", "order", "prices", "sums", "tenants", "top", "until")

    def __init__(self, card: Candidate) -> None:
        self.card = card
        self.tenants: dict[str, tuple[Tenant, float]] = {}
        self.until = 0.0
        self.order: list[Priced] = []
        self.prices: list[float] = []
        self.sums: list[int] = []
        self.top = 0

    @property
    def fit(self) -> tuple[int, str, int, str]:
        """Its place among cards by what is free on them."""
        return self.card.grantable_bytes, self.card.host, self.card.index, self.card.uuid

    def reprice(self, demand: Demand, horizon_s: float, now: float) -> None:
        """Draws up the prices of its residents anew."""
        self.order, self.top = [], 0
        for tenant, whole in self.tenants.values():
            if tenant.pinned or tenant.in_use or tenant.expiring or tenant.bytes <= 0:
                continue
            key = tenant.key
            price = want(demand.gap(key), demand.idle(key, now), horizon_s) * whole
            self.order.append(Priced(price, tenant.lease_id, tenant.bytes))
            self.top = max(self.top, tenant.priority)
        self.order.sort()
        self.prices = [each.price for each in self.order]
        self.sums = _sums(self.order)

    def at_least(self, need_bytes: int) -> float:
        """The price that a request of that size or more, which finds no room, pays here at least."""
        last = bisect_left(self.sums, need_bytes - self.card.grantable_bytes)
        return self.prices[last] if last < len(self.prices) else inf

    def queued_s(self, now: float) -> float:
        """The seconds for which its loader is taken yet: none, or OVERDUE_S at least."""
        return max(OVERDUE_S, self.until - now) if self.until > 0 else 0.0

    def eligible(self, priority: int) -> tuple[list[Priced], list[int]]:
        """Those that may go for a request of this priority, and their bytes summed up."""
        if priority >= self.top:
            return self.order, self.sums
        order = [each for each in self.order if self.tenants[each.lease_id][0].priority <= priority]
        return order, _sums(order)


class CardLine:
    """All cards in the order of what a request of `need_bytes` or more pays there at least."""

    __slots__ = ("bounds", "need_bytes", "order", "stale")

    def __init__(self, need_bytes: int, cards: Mapping[str, PricedCard]) -> None:
        self.need_bytes = need_bytes
        self.bounds = {uuid: entry.at_least(need_bytes) for uuid, entry in cards.items()}
        self.order = sorted((bound, uuid) for uuid, bound in self.bounds.items())
        self.stale: dict[str, None] = {}

    def freshen(self, cards: Mapping[str, PricedCard]) -> None:
        """Puts the cards that changed in their places; one that is not among `cards` any more leaves."""
        for uuid in self.stale:
            if uuid in self.bounds:
                del self.order[bisect_left(self.order, (self.bounds.pop(uuid), uuid))]
            if uuid in cards:
                bound = self.bounds[uuid] = cards[uuid].at_least(self.need_bytes)
                insort(self.order, (bound, uuid))
        self.stale.clear()


def _sums(order: list[Priced]) -> list[int]:
    total = 0
    return [total := total + each.bytes for each in order]
