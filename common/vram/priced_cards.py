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


class Uses(NamedTuple):
    """How a lease itself is used: when last, and the smoothed seconds between uses."""

    last_at: float
    gap_s: float


class Tenant(msgspec.Struct, frozen=True):
    """A lease on a card, as its owner tells of it; `bytes` on this card, `load_s` what loading it here again takes.

    `uses` where somebody else keeps count of how it is used; else the demand for its model says so.
    """

    lease_id: str
    key: ModelKey
    bytes: int
    priority: int
    load_s: float
    pinned: bool = False
    in_use: bool = False
    expiring: bool = False
    uses: Uses | None = None

    def rhythm(self, demand: Demand, now: float) -> tuple[float, float]:
        """The smoothed seconds between uses, and those since the last one."""
        uses = self.uses
        if uses is None:
            return demand.gap(self.key), demand.idle(self.key, now)
        return uses.gap_s, 0.0 if self.in_use else max(0.0, now - uses.last_at)

    def resident(self, demand: Demand, now: float) -> Resident:
        """The lease as an eviction weighs it at `now`."""
        gap_s, idle_s = self.rhythm(demand, now)
        return Resident(
            lease_id=self.lease_id,
            model=self.key.model,
            config=self.key.config,
            bytes=self.bytes,
            priority=self.priority,
            pinned=self.pinned,
            in_use=self.in_use,
            expiring=self.expiring,
            idle_s=idle_s,
            gap_s=gap_s,
            load_s=self.load_s,
        )


class Priced(NamedTuple):
    """A resident that may go, and its price."""

    price: float
    lease_id: str
    bytes: int


class PricedCard:
    """One card: its tenants, and of those that may go the prices in order with the bytes up to each.

    Its loader is taken until about `until`, or for `queued` seconds yet.
    """

    __slots__ = ("card", "order", "place", "prices", "queued", "sums", "tenants", "top", "until")

    def __init__(self, card: Candidate, place: str) -> None:
        self.card = card
        self.place = place
        self.tenants: dict[str, tuple[Tenant, float]] = {}
        self.until = self.queued = 0.0
        self.order: list[Priced] = []
        self.prices: list[float] = []
        self.sums: list[int] = []
        self.top = 0

    @property
    def fit(self) -> tuple[int, str, int, str]:
        """Its place among cards by what is free on them."""
        return self.card.grantable_bytes, self.card.host, self.card.index, self.place

    @property
    def loads(self) -> bool:
        """Whether its loader is taken."""
        return self.until > 0 or self.queued > 0

    def reprice(self, demand: Demand, horizon_s: float, now: float) -> None:
        """Draws up the prices of its residents anew."""
        self.order, self.top = [], 0
        for tenant, whole in self.tenants.values():
            if tenant.pinned or tenant.in_use or tenant.expiring or tenant.bytes <= 0:
                continue
            gap_s, idle_s = tenant.rhythm(demand, now)
            price = want(gap_s, idle_s, horizon_s) * whole
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
        """The seconds for which its loader is taken yet: those queued, or until its time, OVERDUE_S at least."""
        return max(OVERDUE_S, self.until - now) if self.until > 0 else self.queued

    def missing_bytes(self, need_bytes: int) -> int:
        """What has to come free for so many; of a card that one lease has to itself, all that is on it."""
        missing = need_bytes - self.card.grantable_bytes
        if not self.card.exclusive:
            return missing
        return max(missing, sum(tenant.bytes for tenant, _ in self.tenants.values()))

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
        self.bounds = {place: entry.at_least(need_bytes) for place, entry in cards.items()}
        self.order = sorted((bound, place) for place, bound in self.bounds.items())
        self.stale: dict[str, None] = {}

    def freshen(self, cards: Mapping[str, PricedCard]) -> None:
        """Puts the cards that changed in their places; one that is not among `cards` any more leaves."""
        for place in self.stale:
            if place in self.bounds:
                del self.order[bisect_left(self.order, (self.bounds.pop(place), place))]
            if place in cards:
                bound = self.bounds[place] = cards[place].at_least(self.need_bytes)
                insort(self.order, (bound, place))
        self.stale.clear()


def _sums(order: list[Priced]) -> list[int]:
    total = 0
    return [total := total + each.bytes for each in order]
