"""Hears what other hosts' supervisors say of their processes, for dependencies across hosts; starts and stops nothing.

Of each peer: its list, then its events from there on. A peer that says nothing for SILENT_S, not even a beat, is asked again; one
that does not answer is lost, and asked until it does; hosts come up in any order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from common.api.supervisor import LIST_PROCESSES, PROCESS_CHANGED, ListProcesses, ProcessChanged
from common.api.words import Cursor
from common.client.aio import AsyncClient
from common.client.following import Event as Published
from common.client.following import Lost
from common.clock import Clock
from common.errors import TandemError
from common.supervisor.instructions import PeerHeard, PeerLost

ASK_S: Final = 0.25
ASK_TIMEOUT_S: Final = 2.0
SILENT_S: Final = 3.5
"""Beats come once a second."""
LOOK_S: Final = 0.5


class Peers:
    """This host's peers; `tell` hears of their processes, `lacks` names those that are not heard, with the reason."""

    def __init__(
        self, client: AsyncClient, clock: Clock, tell: Callable[[PeerHeard | PeerLost], None], lacks: dict[str, str]
    ) -> None:
        self._client = client
        self._now = clock.monotonic
        self._tell = tell
        self._lacks = lacks
        self._heard_at: dict[str, float] = {}

    async def follow(self, host: str) -> None:
        """Follows one peer until cancelled."""
        known = False
        while True:
            try:
                cursor = await self._list(host)
                known = True
                self._lacks.pop(f"peer {host}", None)
                await self._listen(host, cursor)
            except TandemError as error:
                self._lacks[f"peer {host}"] = f"{host}'s supervisor is not heard: {error.message}"
                if known:
                    self._tell(PeerLost(host, self._now()))
                known = False
                await asyncio.sleep(ASK_S)

    async def _list(self, host: str) -> Cursor:
        listed = await self._client.call(
            f"Supervisor/{host}", LIST_PROCESSES, ListProcesses(), timeout_s=ASK_TIMEOUT_S, idempotent=False
        )
        for process in listed.processes:
            self._tell(PeerHeard(host, process.name, process.phase, self._now()))
        return listed.as_of

    async def _listen(self, host: str, since: Cursor) -> None:
        """Passes events on until some are lost or none come any more, so that the peer is to be asked again."""
        self._heard_at[host] = self._now()
        hearing = asyncio.create_task(self._hear(host, since))
        try:
            while not hearing.done() and self._now() - self._heard_at[host] < SILENT_S:
                await asyncio.wait([hearing], timeout=LOOK_S)
            if hearing.done():
                hearing.result()
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(self, host: str, since: Cursor) -> None:
        topic = PROCESS_CHANGED.name

        def heard() -> None:
            self._heard_at[host] = self._now()

        async for notice in self._client.events(f"Supervisor/{host}", [topic], {topic: since}, heard=heard):
            if isinstance(notice, Lost):
                return
            self._take(host, notice)

    def _take(self, host: str, notice: Published) -> None:
        """What is no change of a process is passed over: the next list has it."""
        with suppress(msgspec.MsgspecError):
            process = msgspec.json.decode(notice.body, type=ProcessChanged).process
            self._tell(PeerHeard(host, process.name, process.phase, self._now()))
