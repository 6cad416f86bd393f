"""Where each host's relay offers the agents of other hosts, as its supervisor tells; look-ups from that host are answered by it.

A supervisor that is away keeps what it told: its relay goes on without being heard.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from common.api import relays as api
from common.api.words import Cursor
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.registry.location import Relayed

SUPERVISOR: Final = "Supervisor/"
ASK_S: Final = 2.0


class Relays:
    """What all supervisors of the directory offer: `known`, by host and agent."""

    def __init__(self, directory: Directory) -> None:
        self.known: dict[tuple[str, str], Relayed] = {}
        self._hosts = [name.removeprefix(SUPERVISOR) for name in directory.names() if name.startswith(SUPERVISOR)]

    def follow(self, client: AsyncClient, spawn: Callable[[Coroutine[Any, Any, Any], str], object]) -> None:
        """Keep up with every supervisor by `client` until the tasks that `spawn` begins end."""
        for host in self._hosts:
            target = SUPERVISOR + host
            work = keep_up(client, target, [api.RELAYS_CHANGED.name], _Host(host, target, client, self.known))
            spawn(work, f"following the relay of {host}")


class _Host:
    """One supervisor's word."""

    def __init__(self, host: str, target: str, client: AsyncClient, known: dict[tuple[str, str], Relayed]) -> None:
        self._host = host
        self._target = target
        self._client = client
        self._known = known

    async def look(self) -> Mapping[str, Cursor]:
        """Take in its list."""
        told = await self._client.call(
            self._target, api.LIST_RELAYS, api.ListRelays(), timeout_s=ASK_S, idempotent=False
        )
        for key in [key for key in self._known if key[0] == self._host]:
            del self._known[key]
        for relay in told.relays:
            self._take(relay)
        return {api.RELAYS_CHANGED.name: told.as_of}

    def take(self, event: Event) -> None:
        """What is no change of a relay is passed over: the next list has it."""
        with suppress(msgspec.MsgspecError, UnicodeError):
            told = msgspec.json.decode(event.body, type=api.RelayChanged)
            if told.change == "closed":
                self._known.pop((self._host, told.relay.agent_name), None)
            else:
                self._take(told.relay)

    def _take(self, relay: api.Relay) -> None:
        self._known[self._host, relay.agent_name] = Relayed(relay.port, 0, relay.events_port)

    def away(self, reason: str) -> None:
        """What it told still holds; that it is away is told by who watches it."""
