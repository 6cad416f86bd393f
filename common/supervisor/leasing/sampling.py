"""Looks at the cards and the host, aside: one thread, one look at a time, each handed back on the loop with whose is what.

A driver may answer late or never. Whoever asked goes on meanwhile, sees how old the last look is, and decides what that means.
Samples come with what common/vram/card_health.py makes of them; beyond that nothing here judges a measurement.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from common.clock import Clock
from common.errors import TandemError
from common.gpu.cards import CardSource
from common.supervisor.leasing.families import NO_CGROUPS, Families, told_apart
from common.supervisor.leasing.host_look import HostLook, look_at_host
from common.vram.card_health import HealthWatch
from common.vram.cards import CardSample, ProcessId

HERE: Final = Path()
HOST_LOOK_S: Final = 2.0
"""The host is looked at with every look at its cards, but not sooner than this after the last time."""
END_S: Final = 2.0
"""How long `close` waits for a look under way before it leaves the thread to itself."""


class Look(NamedTuple):
    """One look at all cards, begun at `began_at`; `tree` maps to its pinned owner's pid that of each descendant (ledger), and of
    each process in an owner's cgroup, as `families` tells them apart. `host` is what the host has beside its cards, where this
    look was one at that too."""

    samples: list[CardSample]
    tree: dict[int, int]
    began_at: float
    problem: str = ""
    host: HostLook | None = None
    families: Families = Families()


class _Order(NamedTuple):
    owners: frozenset[ProcessId]
    cgroups: Mapping[str, ProcessId]


class Sampler:
    """The thread; it owns the source and closes it. `seen` is called on the loop once for each look."""

    def __init__(
        self,
        cards: CardSource,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        seen: Callable[[Look], None],
        home: Path = HERE,
    ) -> None:
        self._cards = cards
        self._clock = clock
        self._loop = loop
        self._seen = seen
        self._health = HealthWatch()
        self._home = home
        self._host_looked_at = float("-inf")
        self._families = Families()
        self._asked: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        # A daemon: a driver that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="cards", daemon=True)
        self._thread.start()
        self.began_at = clock.monotonic()
        self.looking = False

    def look(self, owners: frozenset[ProcessId], owned_cgroups: Mapping[str, ProcessId] = NO_CGROUPS) -> None:
        """Begins a look that tells apart the families of these owners and who is in their cgroups; not while one is under way."""
        if not self.looking:
            self.looking = True
            self.began_at = self._clock.monotonic()
            self._asked.put(_Order(owners, dict(owned_cgroups)))

    async def close(self) -> None:
        """Ends the thread, and with it the use of the cards; one that hangs is left behind."""
        self._asked.put(None)
        await asyncio.to_thread(self._thread.join, END_S)

    def _run(self) -> None:
        while (order := self._asked.get()) is not None:
            look = self._look(order)
            try:
                self._loop.call_soon_threadsafe(self._hand_back, look)
            except RuntimeError:
                break  # the loop has closed: nobody is left to tell
        self._cards.close()

    def _look(self, order: _Order) -> Look:
        look = self._look_at_cards(order)
        if look.began_at - self._host_looked_at < HOST_LOOK_S:
            return look
        self._host_looked_at = look.began_at
        return look._replace(host=look_at_host(self._home, order.owners))

    def _look_at_cards(self, order: _Order) -> Look:
        began_at = self._clock.monotonic()
        try:
            samples = self._health.judged(self._cards.sample(began_at))
            self._families = told_apart(samples, order.owners, order.cgroups, self._families.members)
            return Look(samples, self._families.tree, began_at, families=self._families)
        except TandemError as error:
            return Look([], {}, began_at, error.message)
        except Exception as error:  # a bug of one look must not end all looking
            logging.getLogger("tandem.supervisor").exception("the cards could not be looked at")
            return Look([], {}, began_at, f"the cards could not be looked at: {type(error).__name__}: {error}")

    def _hand_back(self, look: Look) -> None:
        self.looking = False
        self._seen(look)
