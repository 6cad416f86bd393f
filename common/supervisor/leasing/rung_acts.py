"""The acts of an eviction's rungs: asking the owner, having it frozen or stopped, TERM and KILL to its processes.

Each act ends with a claim in the words of whoever was asked; whether memory came back is read from the card by others. A signal
goes to a process that is known by pid and start time, through a descriptor of that very process, or to nobody; never to this
process or those it descends from.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Collection
from typing import Final, NamedTuple, Protocol

import msgspec
import zmq

from common.api import catalog
from common.api.decisions import RungName
from common.api.leases import Unload
from common.client.plain_link import PlainLink
from common.client.verbs import verb_named
from common.clock import Clock
from common.errors import TandemError
from common.gpu import process_identity
from common.supervisor import watchdog
from common.transport.sockets import Endpoint
from common.vram.cards import ProcessId
from common.vram.lease_decision import EvictionOrder
from common.vram.rungs import KEEPING, Means

LOOPBACK: Final = "127.0.0.1"
SAID_CHARS: Final = 200
FABRIC_VERBS: Final = frozenset(verb.name for service in catalog.SERVICES for verb in service.verbs)
AGAIN_S: Final = 0.1
"""KILL is repeated after this time for whoever was born meanwhile."""


class Said(Protocol):
    """A claim: whether it was done, in whose words."""

    @property
    def ok(self) -> bool:
        """Whether it says to have done it."""
        ...

    @property
    def text(self) -> str:
        """What it says, in a line."""
        ...


class Unloader(Protocol):
    """Whoever knows an owner better than its lease does, such as a model server's adapter."""

    @property
    def rungs(self) -> Collection[RungName]:
        """Which of sleep, unload, checkpoint and stop it has."""
        ...

    @property
    def spared(self) -> str:
        """Why the owner's processes must live on, whatever they hold; empty where they may be ended."""
        ...

    async def perform(self, rung: RungName) -> Said:
        """Does one of them: weights to host RAM, weights let go of, the process frozen, or its processes ended. TandemError."""
        ...


class Claimed(NamedTuple):
    """A claim of this file."""

    ok: bool
    text: str


FindUnloader = Callable[[EvictionOrder], "Unloader | None"]


def nobody(_: EvictionOrder) -> None:
    """Finds nobody who knows an owner better than its lease does."""


NotParked = Callable[[EvictionOrder], str]


def parks(_: EvictionOrder) -> str:
    """Finds that all weights fit into host RAM."""
    return ""


class RungActs:
    """Performs rungs; `unloader` finds whoever knows an order's owner, None where nobody does.

    `not_parked` says, as weights are about to go into host RAM, why they may not after all.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        clock: Clock,
        unloader: FindUnloader,
        not_parked: NotParked = parks,
    ) -> None:
        self._context = context
        self._clock = clock
        self._unloader = unloader
        self._not_parked = not_parked

    def means(self, order: EvictionOrder) -> Means:
        """What can be done about the order's owner."""
        known, asked = self._unloader(order), order.unload or Unload()
        there = frozenset() if known is None else frozenset(known.rungs)
        return Means(
            known=order.owner is not None,
            sleep="sleep" in there or bool(asked.port and asked.sleep),
            unload="unload" in there or bool(asked.port and asked.unload),
            checkpoint="checkpoint" in there,
            stop="stop" in there,
            not_parked=order.not_parked,
            spared=order.spared or (known.spared if known is not None else "") or _own(order.owner),
        )

    async def perform(self, rung: RungName, order: EvictionOrder, members: set[ProcessId]) -> Said:
        """Does what the rung says; `members` are the owner's processes so far, and learns of more. Raises TandemError."""
        if rung in ("term", "kill"):
            return await self._signal(rung, members)
        if rung in KEEPING and (why := self._not_parked(order)):
            return Claimed(False, why)
        known = self._unloader(order)
        if known is not None and rung in known.rungs:
            return await known.perform(rung)
        return await self._ask(rung, order, order.unload or Unload())

    async def keep_killing(self, members: set[ProcessId]) -> None:
        """KILL again to whoever of the family is left or was born meanwhile, until it is cancelled."""
        while True:
            await asyncio.sleep(AGAIN_S)
            await self._signal("kill", members)

    async def _ask(self, rung: RungName, order: EvictionOrder, how: Unload) -> Claimed:
        """Asks for each lease by itself; the fabric's own verbs are no owner's to be asked for."""
        name = how.sleep if rung == "sleep" else how.unload
        if name in FABRIC_VERBS:
            return Claimed(False, f"{name} is a verb of the fabric, and gives no memory back")
        link = PlainLink(self._context, Endpoint.tcp(LOOPBACK, how.port), self._clock)
        until, said = self._clock.monotonic() + how.timeout_s, ""
        try:
            for lease_id, model in zip(order.lease_ids, order.models, strict=True):
                answer = await link.call(verb_named(name, ""), {"model": model, "lease_id": lease_id}, until)
                words = {key: value for key, value in answer.items() if key != "status"}
                said = msgspec.json.encode(words).decode()[:SAID_CHARS] if words else "done"
        finally:
            link.close()
        return Claimed(True, f"{name}: {said}")

    async def _signal(self, rung: RungName, members: set[ProcessId]) -> Claimed:
        members |= await asyncio.to_thread(_families, frozenset(members))
        number = signal.SIGTERM if rung == "term" else signal.SIGKILL
        living = [each for each in members if process_identity.is_alive(*each) and not _own(each)]
        unsent = [each for each in living if not watchdog.send(watchdog.Process(*each), number)]
        kept = [str(each.pid) for each in unsent if process_identity.is_alive(*each)]
        refused = f"; {', '.join(kept)} may not be signalled from here" if kept else ""
        return Claimed(not kept, f"{rung.upper()} to {len(living) - len(kept)} of its processes{refused}")


def _families(members: frozenset[ProcessId]) -> frozenset[ProcessId]:
    """All of them with their descendants and their sessions."""
    return frozenset().union(*(process_identity.family(member) for member in members))


def _own(process: ProcessId | None) -> str:
    """Why the process is never ended from here; empty for any other."""
    if process is not None and process in process_identity.lineage(os.getpid()):
        return "it is this supervisor, or what started it"
    return ""


def describe(error: BaseException) -> str:
    """An act that failed, as a claim."""
    return error.message if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
