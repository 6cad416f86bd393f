"""Hears what other hosts' supervisors say of their processes, for dependencies across hosts; starts and stops nothing.

Of each peer: its list, then its events from there on. A peer that says nothing for SILENT_S, not even a beat, is lost, and is
asked again until it answers; hosts come up in any order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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

    async def follow(self, host: str) -> None:
        """Follows one peer until cancelled."""
        while True:
            try:
                cursor = await self._list(host)
            except TandemError as error:
                self._lacks[f"peer {host}"] = f"{host}'s supervisor is not heard: {error.message}"
                await asyncio.sleep(ASK_S)
                continue
            self._lacks.pop(f"peer {host}", None)
            if await self._silent(host, cursor):
                self._tell(PeerLost(host, self._now()))

    async def _list(self, host: str) -> Cursor:
        listed = await self._client.call(
            f"Supervisor/{host}", LIST_PROCESSES, ListProcesses(), timeout_s=ASK_TIMEOUT_S, idempotent=False
        )
        for process in listed.processes:
            self._tell(PeerHeard(host, process.name, process.phase, self._now()))
        return listed.as_of

    async def _silent(self, host: str, since: Cursor) -> bool:
        """Passes events on until they must be listed anew (False) or none come any more (True)."""
        last = [self._now()]
        hearing = asyncio.create_task(self._hear(host, since, lambda: last.__setitem__(0, self._now())))
        try:
            while not hearing.done() and self._now() - last[0] < SILENT_S:
                await asyncio.wait([hearing], timeout=LOOK_S)
            return not hearing.done()
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(self, host: str, since: Cursor, heard: Callable[[], None]) -> None:
        topic = PROCESS_CHANGED.name
        async for notice in self._client.events(f"Supervisor/{host}", [topic], {topic: since}, heard=heard):
            if isinstance(notice, Lost):
                return
            self._take(host, notice)

    def _take(self, host: str, notice: Published) -> None:
        try:
            process = msgspec.json.decode(notice.body, type=ProcessChanged).process
        except msgspec.MsgspecError:
            return
        self._tell(PeerHeard(host, process.name, process.phase, self._now()))
