"""When the host's cards are looked at, and how they are shown: events, health and metrics.

A look begins twice a second while memory is leased or waited for, else every two seconds, and at once when a lease ended. Nobody
but a starting supervisor and a grant on unsettled bytes waits for one. A driver that hangs is said to, and its cards close
by the age of their last look (common/vram/ledger.py). It grants nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from common.api import gpus
from common.api.gpus import Card, CardsSampled
from common.api.supervisor import AdmitLease
from common.gpu.cards import CardSource, NoCards
from common.service.shell import Shell
from common.supervisor.leasing.families import told_apart
from common.supervisor.leasing.metrics import LeaseFigures
from common.supervisor.leasing.sampling import HERE, Look, Sampler
from common.supervisor.leasing.waiting import Line, wish_of
from common.supervisor.leasing.writer import LeaseWriter
from common.vram import ledger, placement

BUSY_LOOK_S: Final = 0.5
IDLE_LOOK_S: Final = 2.0
"""Seconds between looks with leases or waiters, and without."""
SOONEST_LOOK_S: Final = 0.02
CLOSE_LOOK_S: Final = 0.001
"""A look that was asked for begins at least this long after the last one began; where memory is waited for to go, the second."""
FIRST_LOOK_S: Final = 2.0
"""How long a start waits for its first look; the cards stay closed until there is one."""
PUBLISH_S: Final = 2.0
"""`cards.sampled` goes out on every change, and after this long without one."""


class CardWatch:
    """Looks at the cards and shows them; `seen` is told of each look. None as `cards`: `problem` says why there are none."""

    def __init__(
        self,
        shell: Shell,
        host: str,
        cards: CardSource | None,
        problem: str,
        writer: LeaseWriter,
        line: Line,
        seen: Callable[[Look], None],
        home: Path = HERE,
    ) -> None:
        self._shell = shell
        self._host = host
        self._cards = cards
        self._no_cards = problem or f"{host} has no cards"
        self._writer = writer
        self._line = line
        self._on_seen = seen
        self._home = home
        self._now = shell.clock.monotonic
        self._figures = LeaseFigures(writer.decided)
        self._figures.show(shell.metrics)
        self._sampler: Sampler | None = None
        self._looked: asyncio.Future[None] = shell.loop.create_future()
        self._wanted_within_s: float | None = None
        self._next: asyncio.TimerHandle | None = None
        self._seen_at = float("-inf")
        self._doubtful: frozenset[str] = frozenset()
        self._closed = False
        self._published_at = float("-inf")

    @property
    def has_cards(self) -> bool:
        """Whether there is anything to lease, now or later."""
        return self._cards is not None

    async def open(self) -> None:
        """Takes the first look, waiting for it at most FIRST_LOOK_S."""
        cards = self._cards
        if cards is None:
            cards, self._shell.lacks["cards"] = NoCards(self._no_cards), self._no_cards
        self._sampler = Sampler(cards, self._shell.clock, self._shell.loop, self._seen, self._home)
        self._look()
        await self.next_look(FIRST_LOOK_S)
        self._show()

    async def close(self) -> None:
        """Looks no more and lets go of the cards."""
        self._closed = True
        if self._sampler is not None:
            await self._sampler.close()

    async def next_look(self, within_s: float) -> None:
        """Wait until a look is in, at most `within_s`."""
        await asyncio.wait([self._looked], timeout=within_s)

    async def settled(self, asked: AdmitLease, within_s: float) -> None:
        """Waits, at most so long, where the request depends on bytes that no look has seen free, or that may be gone by now."""
        asked_at = self._now()
        end = asked_at + within_s
        while self._needs_look(asked, asked_at) and (left_s := end - self._now()) > 0:
            self.look_closely()
            await self.next_look(left_s)

    def in_doubt(self, asked_at: float) -> frozenset[str]:
        """The cards where an owner may hold more than it leased, which no look since then tells: they take nobody."""
        return self._doubtful if self._seen_at < asked_at else frozenset()

    def look_soon(self) -> None:
        """Have a look that begins after now."""
        self._look_within(SOONEST_LOOK_S)

    def look_closely(self) -> None:
        """The same, without delay: memory should go at any moment, and somebody waits for it."""
        self._look_within(CLOSE_LOOK_S)

    def tick(self) -> None:
        """Looks if a look is due, and shows what stands."""
        busy = len(self._writer.table) or len(self._line) or self._writer.settling
        every_s = BUSY_LOOK_S if busy else IDLE_LOOK_S
        if self._sampler is not None and self._now() - self._sampler.began_at >= every_s:
            self._look()
        self._show()

    def _needs_look(self, asked: AdmitLease, asked_at: float) -> bool:
        return self._needs_settling(asked) or self._needs_new_look(asked, asked_at)

    def _needs_settling(self, asked: AdmitLease) -> bool:
        settling = self._writer.settling
        if not settling:
            return False
        cards, wish = self._writer.table.candidates(self._now(), asked.lease_id), wish_of(asked)
        sure = placement.pick(wish, settling.sure(cards))
        return sure is None and placement.pick(wish, settling.hoped(cards)) is not None

    def _needs_new_look(self, asked: AdmitLease, asked_at: float) -> bool:
        """Whether it would go beside an owner that may hold more than it leased, and no look since it was asked tells."""
        doubtful = self.in_doubt(asked_at)
        if not doubtful:
            return False
        cards = self._writer.table.candidates(self._now(), asked.lease_id)
        return not doubtful.isdisjoint(card.uuid for card in placement.picks(wish_of(asked), cards))

    def _look_within(self, seconds: float) -> None:
        wanted_s = self._wanted_within_s
        if self._sampler is not None and (wanted_s is None or seconds < wanted_s):
            self._wanted_within_s = seconds
            if not self._sampler.looking:
                self._look_in_turn(self._sampler, seconds)

    def _look_in_turn(self, sampler: Sampler, seconds: float) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = self._shell.loop.call_later(max(0.0, sampler.began_at + seconds - self._now()), self._look)

    def _look(self) -> None:
        if self._sampler is None or self._closed or self._sampler.looking:
            return
        if self._next is not None:
            self._next.cancel()
        self._wanted_within_s = None
        self._sampler.look(self._writer.table.owners(), self._writer.owned_cgroups())

    def _seen(self, look: Look) -> None:
        if self._closed:
            return
        look = self._told_apart_anew(look)
        self._writer.measure(look)
        self._seen_at = look.began_at
        self._doubtful = frozenset(each.uuid for each in look.samples if self._writer.table.doubtful(each.uuid))
        self._looked.set_result(None)
        self._looked = self._shell.loop.create_future()
        if self._wanted_within_s is not None and self._sampler is not None:
            self._look_in_turn(self._sampler, self._wanted_within_s)
        self._on_seen(look)
        self._show()

    def _told_apart_anew(self, look: Look) -> Look:
        """The look with whoever was granted a lease, or said where its container is, while the cards were looked at."""
        owners, owned_cgroups = self._writer.table.owners(), self._writer.owned_cgroups()
        if look.families.knew(owners, owned_cgroups):
            return look
        families = told_apart(look.samples, owners, owned_cgroups, look.families.members)
        return look._replace(tree=families.tree, families=families)

    def _show(self) -> None:
        now = self._now()
        cards = self._writer.table.cards(now)
        changed = _essence(cards) != _essence(self._figures.cards)
        self._figures.cards = cards
        self._figures.leases, self._figures.waiters = len(self._writer.table), len(self._line)
        self._figures.parked = self._writer.table.asleep()
        problem = self._problem(now, cards)
        if problem and self.has_cards:
            self._shell.problems["cards"] = problem
        else:
            self._shell.problems.pop("cards", None)
        if changed or now - self._published_at >= PUBLISH_S:
            self._published_at = now
            event = CardsSampled(host=self._host, cards=cards, problem=problem)
            self._shell.publisher.publish(gpus.CARDS_SAMPLED, self._host, event)

    def _problem(self, now: float, cards: Sequence[Card]) -> str:
        """Why cards cannot be leased now; empty when all can."""
        if not self.has_cards:
            return self._no_cards
        if self._sampler is not None and self._sampler.looking:
            asked_s = now - self._sampler.began_at
            if asked_s > ledger.DEFAULT.stale_s:
                return f"{self._host}'s driver has not answered for {asked_s:.0f} s"
        closed = [f"{self._host}:{card.card} {card.reason}" for card in cards if not card.schedulable]
        return "; ".join(closed) or self._writer.table.missing().get(self._host, "")


def _essence(cards: Sequence[Card]) -> list[Card]:
    """The cards without what changes at every look and matters to no lease."""
    return [
        msgspec.structs.replace(card, temperature_c=0.0, utilization_pct=0.0, power_w=0.0, throttled=[])
        for card in cards
    ]
