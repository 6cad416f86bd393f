"""Watching the supervisors: each one's leases and cards are listed, then followed by its events, for ever.

What a supervisor says goes to the planner and, where it is about a lease, out again as this service's own event. One that is
silent or away shows as a lack; when it is back, or events were lost, everything is listed anew. It decides nothing about leases.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgspec

from common.api.leases import (
    CARDS_SAMPLED,
    GET_GPUS,
    LEASE_CHANGED,
    LIST_LEASES,
    CardsSampled,
    GetGpus,
    LeaseChanged,
    Leases,
    ListLeases,
)
from common.api.words import Cursor
from common.client.aio import AsyncClient
from common.client.following import Event
from common.errors import TandemError, Unavailable
from common.service.shell import Shell
from pc2.resource_manager.calling import SUPERVISOR
from pc2.resource_manager.events import CardsSeen, HostBack, HostLost, LeaseSeen
from pc2.resource_manager.fleet import Fleet
from pc2.resource_manager.turns import Turns

ASK_S: Final = 2.0
AGAIN_S: Final = 0.25
SILENT_S: Final = 3.5
"""Beats come once a second; a supervisor that is not heard for this long is away."""


_SAID: Final[dict[str, Any]] = {topic.name: topic.event for topic in (LEASE_CHANGED, CARDS_SAMPLED)}


class Watching:
    """The supervisors of `hosts`."""

    def __init__(self, shell: Shell, turns: Turns, client: AsyncClient, fleet: Fleet, hosts: tuple[str, ...]) -> None:
        self._shell = shell
        self._turns = turns
        self._client = client
        self._fleet = fleet
        self._away = dict.fromkeys(hosts, "")
        self._untried = set(hosts)
        self._tried = asyncio.Event()

    @property
    def away(self) -> int:
        """How many hosts cannot be asked."""
        return sum(not self._fleet.reachable(host) for host in self._away)

    def begin(self) -> None:
        """Watch until the shell ends."""
        for host in self._away:
            self._shell.spawn(self._follow(host), f"following {host}")

    async def looked(self, within_s: float) -> None:
        """Waits until every host was asked once, whatever came of it, at most `within_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._tried.wait()

    async def _follow(self, host: str) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENT_S) as patience:
                    await self._hear(host, patience)
            except TimeoutError:
                self._lost(host, f"its supervisor was not heard for {SILENT_S:g} s")
            except TandemError as error:
                self._lost(host, f"its supervisor cannot be asked: {error.message}")
            except Exception as bug:
                self._shell.log.exception("following %s failed inside the service", host)
                self._lost(host, f"it cannot be followed: {type(bug).__name__} inside ResourceManager")
            await asyncio.sleep(AGAIN_S)

    async def _hear(self, host: str, patience: asyncio.Timeout) -> None:
        """Lists, then follows until the list has to be had anew; TandemError when the supervisor is away."""
        since = {LEASE_CHANGED.name: await self._look(host)}

        def heard() -> None:
            patience.reschedule(self._shell.loop.time() + SILENT_S)

        heard()
        async for notice in self._client.events(f"{SUPERVISOR}{host}", tuple(_SAID), since, heard=heard):
            if isinstance(notice, Event):
                self._take(host, notice)
            elif notice.topic == LEASE_CHANGED.name:  # each sample of the cards is whole; a lost one is no matter
                return

    async def _look(self, host: str) -> Cursor:
        """Takes in the whole of a host: its leases first, so that none of them is missing from the cards' figures."""
        name = f"{SUPERVISOR}{host}"
        listed = await self._client.call(name, LIST_LEASES, ListLeases(host=host), timeout_s=ASK_S)
        if host in listed.missing:
            raise Unavailable(listed.missing[host])
        gpus = await self._client.call(name, GET_GPUS, GetGpus(host=host), timeout_s=ASK_S)
        self._tell_differences(host, listed)
        self._turns.tell(HostBack(host, listed))
        self._turns.tell(CardsSeen(host, CardsSampled(host=host, cards=gpus.cards, problem=gpus.missing.get(host, ""))))
        self._away[host] = ""
        self._shell.lacks.pop(f"{SUPERVISOR}{host}", None)
        self._was_tried(host)
        return listed.as_of

    def _lost(self, host: str, reason: str) -> None:
        if self._away[host] != reason:
            self._away[host] = reason
            self._shell.lacks[f"{SUPERVISOR}{host}"] = f"{host}: {reason}"
            self._turns.tell(HostLost(host, reason))
        self._was_tried(host)

    def _was_tried(self, host: str) -> None:
        self._untried.discard(host)
        if not self._untried:
            self._tried.set()

    def _take(self, host: str, event: Event) -> None:
        try:
            said: LeaseChanged | CardsSampled = msgspec.json.decode(event.body, type=_SAID[event.topic])
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._shell.log.warning("an event of %s from %s cannot be read: %s", event.topic, host, error)
            return
        if isinstance(said, LeaseChanged):
            self._publish(said)
            self._turns.tell(LeaseSeen(host, said))
        else:
            self._turns.tell(CardsSeen(host, said))

    def _publish(self, change: LeaseChanged) -> None:
        self._shell.publisher.publish(LEASE_CHANGED, change.lease.lease_id, change)

    def _tell_differences(self, host: str, listed: Leases) -> None:
        """Publishes what changed while nobody listened; how a lease ended then is not known here."""
        known = {lease.lease_id: lease for lease in self._fleet.leases(host)}
        now = {lease.lease_id: lease for lease in listed.leases}
        for lease_id, lease in known.items():
            if lease_id not in now:
                gone = f"ended while {host} was not heard; its supervisor's receipts say how"
                self._publish(LeaseChanged(change="released", lease=lease, reason=gone))
        for lease_id, lease in now.items():
            if lease_id not in known:
                self._publish(LeaseChanged(change="granted", lease=lease, reason=f"found in {host}'s table"))
