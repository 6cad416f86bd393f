"""The queue for VRAM: in which order requests wait, which may start now, and which bytes are kept for whom.

Order. A request's rank is its priority plus `points_per_s` for each second waited. All ranks rise alike, so two requests
never change places: the order is that of asked_at - priority / points_per_s, ties by ticket. After 100 / points_per_s seconds
no newcomer, whatever its priority, comes in ahead.

No head-of-line blocking. `startable` walks the whole queue and starts whatever fits.

No starvation. A request is the head of a card when it is the first in the queue that the card could ever hold. A head
that has waited `reserve_after_s` seconds keeps one card to itself: the one of its cards with the most grantable bytes,
and that one for as long as it is its head. Nothing behind it starts there, so each byte that comes free there is its own; the
other cards go on serving everyone. A head that wants several cards keeps as many of one host.

Room made for a request is its own: it starts on the cards as it sees them, whoever keeps them for longer waiting.

Every request has a deadline; `overdue` names those past theirs. The queue grants nothing and tells nobody.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from common.api.leases import LeaseProgress
from common.vram.placement import Candidate, Choice, Wish, choose, picks


class QueuePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs: priority points gained per second of waiting, and the seconds after which a head keeps a card."""

    points_per_s: float = 0.5
    reserve_after_s: float = 60.0


DEFAULT: Final = QueuePolicy()
NO_ROOMS: Final[Mapping[str, Sequence[Candidate]]] = {}


class Waiter(msgspec.Struct, frozen=True):
    """One request in the queue; times in seconds of the caller's monotonic clock. `barred` says which hosts cannot take it."""

    ticket: str
    wish: Wish
    priority: int
    asked_at: float
    deadline: float
    barred: Mapping[str, str] = {}


class News(msgspec.Struct, frozen=True):
    """What changed for one waiter: the choice as it stands, and how its caller is told."""

    waiter: Waiter
    choice: Choice
    progress: LeaseProgress


class LeaseQueue:
    """The requests that wait for VRAM, first in line first."""

    def __init__(self, policy: QueuePolicy = DEFAULT) -> None:
        self._policy = policy
        self._order: list[tuple[float, str]] = []
        self._waiters: dict[str, Waiter] = {}
        self._kept: dict[str, str] = {}
        self._told: dict[str, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, ticket: str) -> bool:
        return ticket in self._waiters

    def add(self, waiter: Waiter) -> None:
        """Puts a request in its place; a ticket that waits already is replaced."""
        self.remove(waiter.ticket)
        self._waiters[waiter.ticket] = waiter
        insort(self._order, self._rank(waiter))

    def remove(self, ticket: str) -> None:
        """Takes a request out, because it starts or was withdrawn; one that does not wait is no matter."""
        waiter = self._waiters.pop(ticket, None)
        if waiter is not None:
            self._order.remove(self._rank(waiter))
            self._told.pop(ticket, None)
            self._kept = {uuid: holder for uuid, holder in self._kept.items() if holder != ticket}

    def overdue(self, now: float) -> list[Waiter]:
        """The requests past their deadline, first in line first."""
        return [waiter for waiter in self._line() if waiter.deadline <= now]

    def position(self, ticket: str) -> int:
        """The place in the line; 1 is next. Raises KeyError for a ticket that does not wait."""
        return self._order.index(self._rank(self._waiters[ticket])) + 1

    def first(self, count: int) -> list[str]:
        """The tickets that are next, at most `count`."""
        return [ticket for _, ticket in self._order[:count]]

    def startable(
        self, cards: Sequence[Candidate], now: float, rooms: Mapping[str, Sequence[Candidate]] = NO_ROOMS
    ) -> list[tuple[Waiter, Candidate]]:
        """What may start now, on which card (the first of several), in the order of the line.

        Each start lowers what those behind it find. `rooms` are, by ticket, the cards that room was made on, as only that
        ticket's request sees them; one with no card there starts nowhere by now, and keeps none.
        """
        self._keep(cards, now, rooms)
        found = _Found(cards)
        kept_ahead: set[str] = set()
        starts = []
        for waiter in self._line():
            room = rooms.get(waiter.ticket)
            seen = found.cards() if room is None else [found.lowered(card) for card in room]
            chosen = picks(waiter.wish, seen, kept_ahead if room is None else (), waiter.barred)
            if chosen:
                starts.append((waiter, chosen[0]))
                found.take(waiter.wish, chosen)
            kept_ahead.update(uuid for uuid, ticket in self._kept.items() if ticket == waiter.ticket)
        return starts

    def kept_from(self, priority: int, asked_at: float) -> frozenset[str]:
        """The cards kept from a request of this priority that came then, by those ahead of it."""
        rank = asked_at - priority / self._policy.points_per_s
        return frozenset(uuid for uuid, holder in self._kept.items() if self._rank(self._waiters[holder])[0] < rank)

    def news(self, cards: Sequence[Candidate], missing: Mapping[str, str], now: float) -> list[News]:
        """The requests whose place or reason changed since they were last told, first in line first."""
        told = []
        kept_ahead: set[str] = set()
        for place, waiter in enumerate(self._line(), start=1):
            choice = choose(waiter.wish, cards, kept_ahead, missing=missing, barred=waiter.barred)
            if self._told.get(waiter.ticket) != (place, choice.reason):
                self._told[waiter.ticket] = place, choice.reason
                told.append(News(waiter, choice, _progress(waiter, place, choice, now)))
            kept_ahead.update(uuid for uuid, ticket in self._kept.items() if ticket == waiter.ticket)
        return told

    def _keep(self, cards: Sequence[Candidate], now: float, rooms: Mapping[str, Sequence[Candidate]]) -> None:
        kept: dict[str, str] = {}
        headless = {card.uuid: card for card in cards if not card.problem}
        for waiter in self._line():
            if not rooms.get(waiter.ticket, cards):
                continue
            able = (card for card in headless.values() if card.host not in waiter.barred)
            heads = [card for card in able if waiter.wish.could_hold(card)]
            if heads and now - waiter.asked_at >= self._policy.reserve_after_s:
                kept |= dict.fromkeys(self._nearest(waiter, heads), waiter.ticket)
            for card in heads:
                del headless[card.uuid]
            if not headless:
                break
        self._kept = kept

    def _nearest(self, waiter: Waiter, heads: Iterable[Candidate]) -> list[str]:
        """The cards to keep: those it keeps already, then those with the most to grant; all of one host, or none."""
        ticket, wanted = waiter.ticket, waiter.wish.cards
        order = sorted(heads, key=lambda card: (self._kept.get(card.uuid) != ticket, -card.grantable_bytes, card.label))
        by_host: dict[str, list[str]] = {}
        for card in order:
            by_host.setdefault(card.host, []).append(card.uuid)
        return next((uuids[:wanted] for uuids in by_host.values() if len(uuids) >= wanted), [])

    def _line(self) -> list[Waiter]:
        return [self._waiters[ticket] for _, ticket in self._order]

    def _rank(self, waiter: Waiter) -> tuple[float, str]:
        return waiter.asked_at - waiter.priority / self._policy.points_per_s, waiter.ticket


class _Found:
    """The cards as the next in line finds them, after those ahead have started."""

    def __init__(self, cards: Iterable[Candidate]) -> None:
        self._cards = {(card.host, card.index): card for card in cards}
        self._taken: dict[str, int] = {}

    def cards(self) -> Iterable[Candidate]:
        return self._cards.values()

    def lowered(self, card: Candidate) -> Candidate:
        """A card as one request alone sees it, less what has started there."""
        left = max(0, card.grantable_bytes - self._taken.get(card.uuid, 0))
        return msgspec.structs.replace(card, grantable_bytes=left)

    def take(self, wish: Wish, chosen: Iterable[Candidate]) -> None:
        """Somebody starts there; nobody finds more left than that one leaves."""
        for card in chosen:
            self._taken[card.uuid] = self._taken.get(card.uuid, 0) + wish.need_bytes
            found = self._cards.get((card.host, card.index), card)
            left = max(0, min(found.grantable_bytes, card.grantable_bytes - wish.need_bytes))
            self._cards[card.host, card.index] = msgspec.structs.replace(
                found,
                grantable_bytes=left,
                leases=found.leases + 1,
                exclusive=found.exclusive or wish.exclusive,
                pinned_bytes=found.pinned_bytes + wish.need_bytes * wish.pinned,
            )


def _progress(waiter: Waiter, place: int, choice: Choice, now: float) -> LeaseProgress:
    return LeaseProgress(
        position=place,
        need_bytes=waiter.wish.need_bytes,
        free_bytes=choice.free_bytes,
        waited_s=max(0.0, now - waiter.asked_at),
        reason=choice.reason,
    )
