"""The queue for loading: which model is loaded next, on which card, and who has to go for it.

One load at a time per card, cards side by side. Requests for one model make a batch: one load serves them all, and whoever
asks while it goes on joins it. So A B A B is served A A B B.

Order. A request's rank is that of the queue for leases, asked_at - priority / points_per_s. A batch has the rank of its
first request, less `batch_s` for each further one, at most `longest_batch_s`: many who wait for one model go a little ahead
of one who waits for another, and never by more than that. So nothing starves.

No head-of-line blocking. A batch for which there is no room, or that is better off waiting for a card whose loader is taken,
is passed over. One that has waited `reserve_after_s` and finds no idle victims anywhere has residents in use *drained*:
nothing new is admitted to them, and it loads when they are through.

Every request has a deadline; `overdue` names those past theirs. The queue starts nothing itself: `next` says what to start,
and whoever does marks the victims as going and the loader as taken in the residency before asking again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from heapq import heapify, heapreplace
from typing import Final, Literal

import msgspec

from common.vram.demand import ModelKey
from common.vram.placement import Candidate, Wish
from common.vram.residency import Residency
from common.vram.waiting import DEFAULT as LINE
from common.vram.waiting import QueuePolicy


class BatchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs: seconds that each further request moves its batch ahead, and all of them together at most."""

    batch_s: float = 5.0
    longest_batch_s: float = 30.0


DEFAULT: Final = BatchPolicy()


class LoadAsked(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a model that is not loaded; `load_s` is how long its load is expected to take. Times as the owner's clock."""

    ticket: str
    key: ModelKey
    wish: Wish
    priority: int
    asked_at: float
    deadline: float
    load_s: float = 0.0


class Load(msgspec.Struct, frozen=True):
    """What to start: the model on the card, once `victims` are gone; with `draining` some of them are still in use.

    `first` is the request on whose behalf it is, `cost_s` what the going of the victims is expected to cost.
    """

    key: ModelKey
    card: Candidate
    victims: tuple[str, ...]
    draining: bool
    cost_s: float
    first: LoadAsked


class Outlook(msgspec.Struct, frozen=True):
    """How a request stands: the place of its batch in the line (0: it loads), and in how many seconds it should be served."""

    phase: Literal["queued", "loading"]
    position: int
    eta_s: float


_BatchKey = tuple[ModelKey, str, str]


class LoadQueue:
    """The requests that wait for a model to be loaded, and the loads that go on."""

    def __init__(self, line: QueuePolicy = LINE, batching: BatchPolicy = DEFAULT) -> None:
        self._line = line
        self._batching = batching
        self._asked: dict[str, LoadAsked] = {}
        self._batches: dict[_BatchKey, dict[str, LoadAsked]] = {}
        self._loading: dict[ModelKey, dict[str, tuple[Candidate, float]]] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def __contains__(self, ticket: str) -> bool:
        return ticket in self._asked

    def ask(self, asked: LoadAsked) -> None:
        """Takes a request in; one that waits already under that ticket is replaced."""
        self.withdraw(asked.ticket)
        self._asked[asked.ticket] = asked
        self._batches.setdefault(_batch_of(asked), {})[asked.ticket] = asked

    def withdraw(self, ticket: str) -> None:
        """Takes a request out; one that does not wait is no matter. A load that goes on for it goes on."""
        asked = self._asked.pop(ticket, None)
        if asked is not None:
            batch = self._batches[_batch_of(asked)]
            del batch[ticket]
            if not batch:
                del self._batches[_batch_of(asked)]

    def overdue(self, now: float) -> list[LoadAsked]:
        """The requests past their deadline, in the order in which they asked."""
        return [asked for asked in self._asked.values() if asked.deadline <= now]

    def next(self, residency: Residency, now: float, closed: Collection[str] = ()) -> Load | None:
        """What to start now, or None. `closed` are cards that may load nothing at present."""
        if not len(self._asked):
            return None
        for batch in self._ordered():
            load = self._load(batch, residency, now, closed)
            if load is not None:
                return load
        return None

    def started(self, load: Load, until: float) -> None:
        """The load goes on and should be over at about `until`; its batch, and who joins it, waits for it."""
        self._loading.setdefault(load.key, {})[load.card.uuid] = load.card, until

    def loaded(self, key: ModelKey, uuid: str) -> list[LoadAsked]:
        """The model is ready on that card: those who waited for it, first come first, wait no longer."""
        card = self._end(key, uuid)
        served = [asked for asked in self._asked.values() if asked.key == key and asked.wish.names(card)]
        for asked in served:
            self.withdraw(asked.ticket)
        return sorted(served, key=self._rank)

    def failed(self, key: ModelKey, uuid: str) -> None:
        """The load ended without a model: its batch is in the line again."""
        self._end(key, uuid)

    def outlook(self, ticket: str, residency: Residency, now: float) -> Outlook:
        """How the request stands; raises KeyError for a ticket that does not wait."""
        asked = self._asked[ticket]
        until = self._joins(asked)
        if until is not None:
            return Outlook("loading", 0, max(0.0, until - now))
        loaders = residency.loaders(now) or [0.0]
        heapify(loaders)
        line = self._ordered()
        position, batch, eta_s = 0, list[LoadAsked](), 0.0
        while asked not in batch:
            position, batch = position + 1, next(line)
            heapreplace(loaders, eta_s := loaders[0] + batch[0].load_s)
        return Outlook("queued", position, eta_s)

    def _load(self, batch: list[LoadAsked], residency: Residency, now: float, closed: Collection[str]) -> Load | None:
        first, priority = batch[0], max(asked.priority for asked in batch)
        room = residency.room(first.wish, priority, now, closed)
        if room is not None:
            if room.queued_load_s > 0:
                return None
            return Load(first.key, room.card, room.victims, False, room.cost_s, first)
        if now - min(asked.asked_at for asked in batch) < self._line.reserve_after_s:
            return None
        for ranked in residency.ranked(first.wish, priority, now, closed, draining=True):
            if ranked.possible and ranked.site.queued_load_s == 0:
                victims = tuple(each.lease_id for each in ranked.plan.chosen)
                return Load(first.key, ranked.site.card, victims, True, ranked.cost_s, first)
        return None

    def _ordered(self) -> Iterator[list[LoadAsked]]:
        """The batches for which no load goes on, in the order of the line, each in the order of its requests."""
        waiting = []
        for batch in self._batches.values():
            asked = sorted(batch.values(), key=self._rank)
            if self._joins(asked[0]) is None:
                rank, ticket = self._rank(asked[0])
                ahead_s = min(self._batching.longest_batch_s, self._batching.batch_s * (len(asked) - 1))
                waiting.append((rank - ahead_s, ticket, asked))
        return (asked for _, _, asked in sorted(waiting))

    def _joins(self, asked: LoadAsked) -> float | None:
        """When the load that serves the request should be over; None where none goes on."""
        loads = self._loading.get(asked.key, {}).values()
        return min((until for card, until in loads if asked.wish.names(card)), default=None)

    def _end(self, key: ModelKey, uuid: str) -> Candidate:
        loads = self._loading[key]
        card, _ = loads.pop(uuid)
        if not loads:
            del self._loading[key]
        return card

    def _rank(self, asked: LoadAsked) -> tuple[float, str]:
        return asked.asked_at - asked.priority / self._line.points_per_s, asked.ticket


def _batch_of(asked: LoadAsked) -> _BatchKey:
    return asked.key, asked.wish.host, asked.wish.card_uuid
