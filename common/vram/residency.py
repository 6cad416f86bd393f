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
from common.vram.placement import Candidate, Wish, suits
from common.vram.priced_cards import CardLine, Priced, PricedCard, Tenant
from common.vram.ranking import Ranked, Site, could_take, in_question, rank

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

    It answers for requests that want one card and share it; for others there is `ranked`. A card is kept under its place: its
    UUID, or whatever else tells it from all others.
    """

    def __init__(self, demand: Demand, horizon: Horizon) -> None:
        self.demand = demand
        self.horizon = horizon
        self._cards: dict[str, PricedCard] = {}
        self._open: list[tuple[int, str, int, str]] = []
        self._aside: dict[str, PricedCard] = {}
        self._lines: dict[int, CardLine] = {}
        self._homes: dict[ModelKey, dict[tuple[str, str], None]] = {}
        self._stale: dict[str, None] = {}
        self._priced_at = -inf

    def see(self, card: Candidate, place: str = "") -> None:
        """Takes a card as it stands: what is free on it, and whether it is open."""
        place = place or card.uuid
        entry = self._cards.get(place)
        if entry is None:
            entry = self._cards[place] = PricedCard(card, place)
        elif entry.card == card:
            return
        else:
            self._leave_line(entry)
            entry.card = card
        self._join_line(entry)
        self._moved(place)

    def lose(self, place: str) -> None:
        """Forgets a card and all on it."""
        entry = self._cards[place]
        for lease_id in tuple(entry.tenants):
            self.drop(place, lease_id)
        self._leave_line(entry)
        self._stale.pop(place, None)
        self._moved(place)
        del self._cards[place]

    def loading(self, place: str, until: float) -> None:
        """The card's loader is taken until about then; 0 says that it is idle."""
        self._load(place, until, 0.0)

    def queued(self, place: str, seconds: float) -> None:
        """The card has so many seconds to load yet, from whenever it is asked; 0 says that its loader is idle."""
        self._load(place, 0.0, seconds)

    def put(self, place: str, tenant: Tenant) -> None:
        """A lease is on the card, or changed there."""
        entry = self._cards[place]
        entry.tenants[tenant.lease_id] = tenant, stake(tenant.bytes, tenant.load_s, tenant.priority)
        self._homes.setdefault(tenant.key, {})[place, tenant.lease_id] = None
        self._stale[place] = None

    def drop(self, place: str, lease_id: str) -> None:
        """A lease left the card."""
        tenant, _ = self._cards[place].tenants.pop(lease_id)
        homes = self._homes[tenant.key]
        del homes[place, lease_id]
        if not homes:
            del self._homes[tenant.key]
        self._stale[place] = None

    def evict(self, place: str, lease_id: str, now: float) -> None:
        """A lease was chosen to go: it is expiring from now on, and the horizon takes in how long it had been idle."""
        tenant, _ = self._cards[place].tenants[lease_id]
        self.horizon.evicted(tenant.rhythm(self.demand, now)[1])
        self.put(place, msgspec.structs.replace(tenant, expiring=True))

    def used(self, key: ModelKey, now: float) -> None:
        """The model was asked for."""
        self.demand.used(key, now)
        for place, _ in self._homes.get(key, ()):
            self._stale[place] = None

    def loaders(self, now: float) -> list[float]:
        """For each open card, the seconds for which its loader is taken yet."""
        return [entry.queued_s(now) for entry in self._cards.values() if not entry.card.problem]

    def homes(self, key: ModelKey) -> Iterator[tuple[str, Tenant]]:
        """The cards where the model is resident, expiring or not, with its lease there."""
        for place, lease_id in self._homes.get(key, ()):
            yield place, self._cards[place].tenants[lease_id][0]

    def reprice(self, now: float) -> None:
        """Draws up all prices anew."""
        for entry in self._cards.values():
            entry.reprice(self.demand, self.horizon.seconds, now)
        self._lines = {need: CardLine(need, self._cards) for need in self._lines}
        self._stale.clear()
        self._priced_at = now

    def freshen(self, now: float) -> None:
        """Draws up the prices anew on cards where something changed, and all of them once they are old."""
        if now - self._priced_at > REFRESH_S:
            self.reprice(now)
            return
        for place in self._stale:
            self._cards[place].reprice(self.demand, self.horizon.seconds, now)
            self._moved(place)
        self._stale.clear()

    def fit(self, wish: Wish, closed: Collection[str] = (), barred: Collection[str] = ()) -> Candidate | None:
        """The tightest fit, whatever it loads, as `placement.pick` has it; also for pins and for a card to itself.

        `closed` are the UUIDs of cards not in question, `barred` the hosts that cannot take it.
        """
        return self._tightest(wish, closed, barred, idle=False)

    def room(
        self, wish: Wish, priority: int, now: float, closed: Collection[str] = (), barred: Collection[str] = ()
    ) -> Room | None:
        """The best card for the request and who goes there, or None; `closed` and `barred` as for `fit`."""
        fit = self._tightest(wish, closed, barred, idle=True)
        if fit is not None:
            return Room(fit, (), 0.0, 0.0, 0.0)
        self.freshen(now)
        bulk = size(wish.need_bytes)
        best: _Bid | None = None
        for entry in self._aside.values():
            best = _better(best, self._bid(entry, wish, bulk, priority, now, closed, barred))
        for bound, place in self._line(wish.need_bytes).order:
            if bound == inf or (best is not None and bound * bulk > best.cost_s):
                break
            if place not in self._aside:
                best = _better(best, self._bid(self._cards[place], wish, bulk, priority, now, closed, barred))
        return None if best is None else best.room

    def ranked(
        self, wish: Wish, priority: int, now: float, closed: Collection[str] = (), *, draining: bool = False
    ) -> list[Ranked]:
        """Every open card in question with its plan and reasons, best first: the long answer, for receipts and for draining."""
        found = in_question(wish, (site for site in self.sites(now) if site.card.uuid not in closed))
        return rank(wish.need_bytes, found, priority, self.horizon.seconds, draining=draining)

    def sites(self, now: float) -> Iterator[Site]:
        """Every open card with who is on it."""
        return (self.site(place, now) for place, entry in self._cards.items() if not entry.card.problem)

    def site(self, place: str, now: float) -> Site:
        """A card with who is on it."""
        entry = self._cards[place]
        residents = tuple(tenant.resident(self.demand, now) for tenant, _ in entry.tenants.values())
        return Site(entry.card, residents, entry.queued_s(now))

    def _tightest(
        self, wish: Wish, closed: Collection[str], barred: Collection[str], *, idle: bool
    ) -> Candidate | None:
        line, picky = self._open, wish.exclusive or wish.pinned
        for index in range(bisect_left(line, (wish.need_bytes,)), len(line)):
            entry = self._cards[line[index][3]]
            card = entry.card
            if card.uuid in closed or card.host in barred or not wish.names(card):
                continue
            if not (idle and entry.loads) and (not picky or suits(wish, card)):
                return card
        return None

    def _bid(
        self,
        entry: PricedCard,
        wish: Wish,
        bulk: float,
        priority: int,
        now: float,
        closed: Collection[str],
        barred: Collection[str],
    ) -> _Bid | None:
        card = entry.card
        if card.problem or card.uuid in closed or card.host in barred or not could_take(wish, card):
            return None
        queued_s = entry.queued_s(now)
        missing = entry.missing_bytes(wish.need_bytes)
        if missing <= 0:
            return _Bid(queued_s, entry, -1, [], queued_s, missing)
        order, sums = entry.eligible(priority)
        last = bisect_left(sums, missing)
        if last == len(sums):
            return None
        return _Bid(order[last].price * bulk + queued_s, entry, last, order, queued_s, missing)

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

    def _moved(self, place: str) -> None:
        for line in self._lines.values():
            line.stale[place] = None

    def _load(self, place: str, until: float, queued: float) -> None:
        entry = self._cards[place]
        if (entry.until, entry.queued) == (until, queued):
            return
        self._leave_line(entry)
        entry.until, entry.queued = until, queued
        self._join_line(entry)

    def _leave_line(self, entry: PricedCard) -> None:
        self._aside.pop(entry.place, None)
        if not (entry.card.problem or entry.card.exclusive):
            del self._open[bisect_left(self._open, entry.fit)]

    def _join_line(self, entry: PricedCard) -> None:
        if entry.loads or entry.card.exclusive:
            self._aside[entry.place] = entry
        if not (entry.card.problem or entry.card.exclusive):
            insort(self._open, entry.fit)


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
    def place(self) -> tuple[float, bool, int, str, int]:
        """How bids compare: by cost, then room beside an idle loader first, then by the bytes left over."""
        left = sum(each.bytes for each in self.chosen) - self.missing
        waits = self.missing > 0 or self.queued_s > 0
        return self.cost_s, waits, left, self.entry.card.host, self.entry.card.index

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
