"""Who is resident on which card, priced and sorted, so that where a request goes is decided in microseconds.

The answers are those of `ranking.rank` on the same facts: the tightest fit among open cards with an idle loader, else the card
where the dearest that has to go, with the loads before it, costs least. What makes them fast is kept between requests: open
cards by the bytes free on them, each card's residents by price with their bytes summed up, and for each size of request that
was asked for, in whole GiB, the cards by what it would cost there at least. A request looks only at cards that could still
beat the best one found.

Prices fall as residents lie idle. They are drawn up anew for a card whenever something on it changes, and for all cards once
they are REFRESH_S old; whoever has thousands of leases calls `reprice` at each look at the cards, so that no request pays
for it.

One owner drives it: it tells what it sees and does, and asks. Nothing here grants, ends or loads.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from math import inf
from typing import Final, NamedTuple

import msgspec

from common.vram.amount import GIB
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.eviction import size, stake
from common.vram.placement import Candidate, Wish
from common.vram.priced_cards import CardLine, Priced, PricedCard, Tenant
from common.vram.ranking import Ranked, Site, rank

REFRESH_S: Final = 1.0
"""Prices older than this many seconds are drawn up anew before they are used."""
KEPT_LINES: Final = 32
"""So many sizes of requests have their cards in order; the one unused for longest makes room."""


class Room(NamedTuple):
    """Where a request finds room: the card, who goes there, cheapest first, and what that costs.

    `queued_load_s` above 0 says that the card loads something else for so long yet.
    """

    card: Candidate
    victims: tuple[str, ...]
    dearest: float
    cost_s: float
    queued_load_s: float


class Residency:
    """The residents of all cards that one owner decides about; times are seconds of its monotonic clock.

    It answers for requests that want one card and share it; for others there is `ranked`.
    """

    def __init__(self, demand: Demand, horizon: Horizon) -> None:
        self.demand = demand
        self.horizon = horizon
        self._cards: dict[str, PricedCard] = {}
        self._idle: list[tuple[int, str, int, str]] = []
        self._loading: dict[str, PricedCard] = {}
        self._lines: dict[int, CardLine] = {}
        self._homes: dict[ModelKey, dict[tuple[str, str], None]] = {}
        self._stale: dict[str, None] = {}
        self._priced_at = -inf

    def see(self, card: Candidate) -> None:
        """Takes a card as it stands: what is free on it, and whether it is open."""
        entry = self._cards.get(card.uuid)
        if entry is None:
            entry = self._cards[card.uuid] = PricedCard(card)
        else:
            self._leave_line(entry)
            entry.card = card
        self._join_line(entry)
        self._moved(card.uuid)

    def lose(self, uuid: str) -> None:
        """Forgets a card and all on it."""
        entry = self._cards[uuid]
        for lease_id in tuple(entry.tenants):
            self.drop(uuid, lease_id)
        self._leave_line(entry)
        self._stale.pop(uuid, None)
        self._moved(uuid)
        del self._cards[uuid]

    def loading(self, uuid: str, until: float) -> None:
        """The card's loader is taken until about then; 0 says that it is idle."""
        entry = self._cards[uuid]
        self._leave_line(entry)
        entry.until = until
        self._join_line(entry)

    def put(self, uuid: str, tenant: Tenant) -> None:
        """A lease is on the card, or changed there."""
        entry = self._cards[uuid]
        entry.tenants[tenant.lease_id] = tenant, stake(tenant.bytes, tenant.load_s, tenant.priority)
        self._homes.setdefault(tenant.key, {})[uuid, tenant.lease_id] = None
        self._stale[uuid] = None

    def drop(self, uuid: str, lease_id: str) -> None:
        """A lease left the card."""
        tenant, _ = self._cards[uuid].tenants.pop(lease_id)
        homes = self._homes[tenant.key]
        del homes[uuid, lease_id]
        if not homes:
            del self._homes[tenant.key]
        self._stale[uuid] = None

    def evict(self, uuid: str, lease_id: str, now: float) -> None:
        """A lease was chosen to go: it is expiring from now on, and the horizon takes in how long it had been idle."""
        tenant, _ = self._cards[uuid].tenants[lease_id]
        self.horizon.evicted(self.demand.idle(tenant.key, now))
        self.put(uuid, msgspec.structs.replace(tenant, expiring=True))

    def used(self, key: ModelKey, now: float) -> None:
        """The model was asked for."""
        self.demand.used(key, now)
        for uuid, _ in self._homes.get(key, ()):
            self._stale[uuid] = None

    def loaders(self, now: float) -> list[float]:
        """For each open card, the seconds for which its loader is taken yet."""
        return [entry.queued_s(now) for entry in self._cards.values() if not entry.card.problem]

    def homes(self, key: ModelKey) -> Iterator[tuple[str, Tenant]]:
        """The cards where the model is resident, expiring or not, with its lease there."""
        for uuid, lease_id in self._homes.get(key, ()):
            yield uuid, self._cards[uuid].tenants[lease_id][0]

    def reprice(self, now: float) -> None:
        """Draws up all prices anew."""
        for entry in self._cards.values():
            entry.reprice(self.demand, self.horizon.seconds, now)
        self._lines = {need: CardLine(need, self._cards) for need in self._lines}
        self._stale.clear()
        self._priced_at = now

    def room(self, wish: Wish, priority: int, now: float, closed: Collection[str] = ()) -> Room | None:
        """The best card for the request and who goes there, or None; `closed` are cards not in question."""
        fit = self._fit(wish, closed)
        if fit is not None:
            return Room(fit, (), 0.0, 0.0, 0.0)
        self._freshen(now)
        bulk = size(wish.need_bytes)
        best: _Bid | None = None
        for entry in self._loading.values():
            best = _better(best, self._bid(entry, wish, bulk, priority, now, closed))
        for bound, uuid in self._line(wish.need_bytes).order:
            if bound == inf or (best is not None and bound * bulk > best.cost_s):
                break
            if uuid not in self._loading:
                best = _better(best, self._bid(self._cards[uuid], wish, bulk, priority, now, closed))
        return None if best is None else best.room

    def ranked(
        self, wish: Wish, priority: int, now: float, closed: Collection[str] = (), *, draining: bool = False
    ) -> list[Ranked]:
        """Every open card in question with its plan and reasons, best first: the long answer, for receipts and for draining."""
        sites = [
            self._site(entry, now)
            for uuid, entry in self._cards.items()
            if uuid not in closed and not entry.card.problem and wish.could_hold(entry.card)
        ]
        return rank(wish.need_bytes, sites, priority, self.horizon.seconds, draining=draining)

    def _site(self, entry: PricedCard, now: float) -> Site:
        residents = [tenant.resident(self.demand, now) for tenant, _ in entry.tenants.values()]
        return Site(entry.card, residents, entry.queued_s(now))

    def _fit(self, wish: Wish, closed: Collection[str]) -> Candidate | None:
        line = self._idle
        for place in range(bisect_left(line, (wish.need_bytes,)), len(line)):
            uuid = line[place][3]
            card = self._cards[uuid].card
            if uuid not in closed and wish.names(card):
                return card
        return None

    def _bid(
        self, entry: PricedCard, wish: Wish, bulk: float, priority: int, now: float, closed: Collection[str]
    ) -> _Bid | None:
        card = entry.card
        if card.problem or card.uuid in closed or not wish.could_hold(card):
            return None
        queued_s = entry.queued_s(now)
        missing = wish.need_bytes - card.grantable_bytes
        if missing <= 0:
            return _Bid(queued_s, entry, -1, [], queued_s, missing)
        order, sums = entry.eligible(priority)
        last = bisect_left(sums, missing)
        if last == len(sums):
            return None
        return _Bid(order[last].price * bulk + queued_s, entry, last, order, queued_s, missing)

    def _freshen(self, now: float) -> None:
        if now - self._priced_at > REFRESH_S:
            self.reprice(now)
            return
        for uuid in self._stale:
            self._cards[uuid].reprice(self.demand, self.horizon.seconds, now)
            self._moved(uuid)
        self._stale.clear()

    def _line(self, need_bytes: int) -> CardLine:
        floor = need_bytes // GIB * GIB
        line = self._lines.pop(floor, None)
        if line is None:
            if len(self._lines) >= KEPT_LINES:
                del self._lines[next(iter(self._lines))]
            line = CardLine(floor, self._cards)
        else:
            line.freshen(self._cards)
        self._lines[floor] = line
        return line

    def _moved(self, uuid: str) -> None:
        for line in self._lines.values():
            line.stale[uuid] = None

    def _leave_line(self, entry: PricedCard) -> None:
        if self._loading.pop(entry.card.uuid, None) is None and not entry.card.problem:
            del self._idle[bisect_left(self._idle, entry.fit)]

    def _join_line(self, entry: PricedCard) -> None:
        if entry.until > 0:
            self._loading[entry.card.uuid] = entry
        elif not entry.card.problem:
            insort(self._idle, entry.fit)


class _Bid(NamedTuple):
    """What one card asks: who goes is everyone in `order` up to `last`, less those who are not needed in the end."""

    cost_s: float
    entry: PricedCard
    last: int
    order: list[Priced]
    queued_s: float
    missing: int

    @property
    def chosen(self) -> list[Priced]:
        """Who goes, dearest first."""
        taken = self.order[: self.last + 1]
        surplus = sum(each.bytes for each in taken) - self.missing
        needed = []
        for each in reversed(taken):
            if each.bytes <= surplus:
                surplus -= each.bytes
            else:
                needed.append(each)
        return needed

    @property
    def place(self) -> tuple[float, int, str, int]:
        """How bids compare: by cost, then by the bytes left over."""
        left = sum(each.bytes for each in self.chosen) - self.missing
        return self.cost_s, left, self.entry.card.host, self.entry.card.index

    @property
    def room(self) -> Room:
        victims = tuple(each.lease_id for each in reversed(self.chosen))
        dearest = self.order[self.last].price if self.order else 0.0
        return Room(self.entry.card, victims, dearest, self.cost_s, self.queued_s)


def _better(one: _Bid | None, other: _Bid | None) -> _Bid | None:
    if one is None or other is None:
        return one or other
    if one.cost_s != other.cost_s:
        return one if one.cost_s < other.cost_s else other
    return min(one, other, key=lambda bid: bid.place)
