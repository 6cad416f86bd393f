"""Watching the supervisors: each one's leases and cards are listed, then followed by its events, for ever.

What a supervisor says goes to the planner and, where it is about a lease, out again as this service's own event. One that is
away shows as a lack; when it is back, or events were lost, everything is listed anew. It decides nothing about leases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from common.api.gpus import CARDS_SAMPLED, GET_GPUS, CardsSampled, GetGpus
from common.api.leases import LEASE_CHANGED, LIST_LEASES, LeaseChanged, Leases, ListLeases
from common.api.words import Cursor
from common.client.aio import AsyncClient
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.errors import Unavailable
from common.service.shell import Shell
from pc2.resource_manager.calling import SUPERVISOR
from pc2.resource_manager.events import CardsSeen, HostBack, HostLost, LeaseSeen
from pc2.resource_manager.fleet import Fleet
from pc2.resource_manager.turns import Turns

ASK_S: Final = 2.0

_SAID: Final[dict[str, Any]] = {topic.name: topic.event for topic in (LEASE_CHANGED, CARDS_SAMPLED)}


class Watching:
    """The supervisors of `hosts`."""

    def __init__(self, shell: Shell, turns: Turns, client: AsyncClient, fleet: Fleet, hosts: tuple[str, ...]) -> None:
        self._shell = shell
        self._client = client
        self._fleet = fleet
        self._untried = set(hosts)
        self._tried = asyncio.Event()
        self.hosts = {host: WatchedHost(host, shell, turns, client, fleet, self._was_tried) for host in hosts}

    @property
    def away(self) -> int:
        """How many hosts cannot be asked."""
        return sum(not self._fleet.reachable(host) for host in self.hosts)

    def begin(self) -> None:
        """Watch until the shell ends."""
        for host, watched in self.hosts.items():
            self._shell.spawn(keep_up(self._client, watched.target, tuple(_SAID), watched), f"following {host}")

    async def looked(self, within_s: float) -> None:
        """Waits until every host was asked once, whatever came of it, at most `within_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._tried.wait()

    def _was_tried(self, host: str) -> None:
        self._untried.discard(host)
        if not self._untried:
            self._tried.set()


class WatchedHost:
    """One supervisor; `tried` hears that it was asked, whatever came of it."""

    def __init__(
        self, host: str, shell: Shell, turns: Turns, client: AsyncClient, fleet: Fleet, tried: Callable[[str], None]
    ) -> None:
        self.target = f"{SUPERVISOR}{host}"
        self._host = host
        self._shell = shell
        self._turns = turns
        self._client = client
        self._fleet = fleet
        self._tried = tried
        self._away = ""

    async def look(self) -> Mapping[str, Cursor]:
        """Takes in the whole of the host: its leases first, so that none of them is missing from the cards' figures."""
        host = self._host
        listed = await self._client.call(self.target, LIST_LEASES, ListLeases(host=host), timeout_s=ASK_S)
        if host in listed.missing:
            raise Unavailable(listed.missing[host])
        gpus = await self._client.call(self.target, GET_GPUS, GetGpus(host=host), timeout_s=ASK_S)
        self.tell_differences(listed)
        self._turns.tell(HostBack(host, listed))
        self._turns.tell(CardsSeen(host, CardsSampled(host=host, cards=gpus.cards, problem=gpus.missing.get(host, ""))))
        self._away = ""
        self._shell.lacks.pop(self.target, None)
        self._tried(host)
        return {LEASE_CHANGED.name: listed.as_of}

    def away(self, reason: str) -> None:
        """The host's cards and requests wait until it is back."""
        if self._away != reason:
            self._away = reason
            text = f"its supervisor cannot be asked: {reason}"
            self._shell.lacks[self.target] = f"{self._host}: {text}"
            self._turns.tell(HostLost(self._host, text))
        self._tried(self._host)

    def take(self, event: Event) -> None:
        """Passes on what it says; what cannot be read is passed over, and the next list has it."""
        try:
            said: LeaseChanged | CardsSampled = msgspec.json.decode(event.body, type=_SAID[event.topic])
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._shell.log.warning("an event of %s from %s cannot be read: %s", event.topic, self._host, error)
            return
        if isinstance(said, LeaseChanged):
            self._publish(said)
            self._turns.tell(LeaseSeen(self._host, said))
        else:
            self._turns.tell(CardsSeen(self._host, said))

    def _publish(self, change: LeaseChanged) -> None:
        self._shell.publisher.publish(LEASE_CHANGED, change.lease.lease_id, change)

    def tell_differences(self, listed: Leases) -> None:
        """Publishes what changed while nobody listened; how a lease ended then is not known here."""
        known = {lease.lease_id: lease for lease in self._fleet.leases(self._host)}
        now = {lease.lease_id: lease for lease in listed.leases}
        for lease_id, lease in known.items():
            if lease_id not in now:
                gone = f"ended while {self._host} was not heard; its supervisor's receipts say how"
                self._publish(LeaseChanged(change="released", lease=lease, reason=gone))
        for lease_id, lease in now.items():
            if lease_id not in known:
                self._publish(LeaseChanged(change="granted", lease=lease, reason=f"found in {self._host}'s table"))
