"""The registry as an asynchronous client asks it: look-ups, by turns of who is asked, and the changes that make answers old.

What a look-up is, and who is asked when, is decided in `locating`; what is remembered, and for how long, in `names`. The client
hands in how a call is made and events are followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from common.api import core_orchestrator as core
from common.client.credentials import Credentials
from common.client.directory import Directory
from common.client.following import Event, Lost
from common.client.locating import Sources
from common.client.names import NameCache
from common.client.pursuit import Found
from common.clock import Clock
from common.errors import TandemError

Ask = Callable[[str, core.LocateAgent, float], Awaitable[core.Endpoint]]
"""Asks the service of a name where an agent is, for so many seconds."""

Follow = Callable[[Callable[[], None], Callable[[], None]], AsyncIterator[Event | Lost]]
"""The changes of the registry; hears when it is followed and of every sign of it."""


class Registry:
    """One client's; the changes are followed from the first look-up on."""

    def __init__(
        self, directory: Directory, credentials: Credentials, names: NameCache, clock: Clock, ask: Ask, follow: Follow
    ) -> None:
        self._directory = directory
        self._credentials = credentials
        self._names = names
        self._sources = Sources(directory.supervisors_here(), clock)
        self._now = clock.monotonic
        self._ask = ask
        self._follow = follow
        self._watching: asyncio.Task[None] | None = None

    async def find(self, target: str, deadline: float) -> Found:
        """Where an agent answers; remembered. Raises the TandemError that ended the asking."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        changes = self._names.changes
        found = self._credentials.found(await self.locate(target, deadline))
        self._names.learn(target, found.endpoint, found.dress, changes, self._now())
        return found

    async def locate(self, target: str, deadline: float) -> core.Endpoint:
        """The registry's own answer, or that of a copy of it; raises the TandemError that ended the asking."""
        asked = core.LocateAgent(agent_name=target, curve=self._credentials.has_keys)
        locating = self._sources.locate(deadline)
        step = next(locating)
        while True:
            try:
                at = await self._ask(step.target, asked, step.timeout_s)
            except TandemError as error:
                step = locating.throw(error)
            else:
                return at

    async def _watch(self) -> None:
        names, now = self._names, self._now
        place = self._directory.place(core.SERVICE)
        if place is None or place.events is None:
            return
        async for notice in self._follow(lambda: names.live(now()), lambda: names.heard(now())):
            if isinstance(notice, Event):
                names.forget(notice.entity)
            else:
                names.forget_all()

    async def close(self) -> None:
        """Hear of no more changes."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
