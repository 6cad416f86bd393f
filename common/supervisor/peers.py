"""Hears what another host's supervisor says of its processes, for dependencies across hosts; starts and stops nothing.

A peer that was heard and does not answer any more is lost; one that was never heard is merely lacked. Hosts come up in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from common.api.supervisor import LIST_PROCESSES, PROCESS_CHANGED, ListProcesses, Process, ProcessChanged
from common.api.words import Cursor
from common.client.aio import AsyncClient
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.clock import Clock
from common.supervisor.instructions import PeerHeard, PeerLost

ASK_TIMEOUT_S: Final = 2.0


class Peer:
    """One peer; `tell` hears of its processes, `lacks` has it, with the reason, while it is not heard.

    `unjoined` says, by host, what is to be done where keys are not known yet.
    """

    def __init__(
        self,
        host: str,
        client: AsyncClient,
        clock: Clock,
        tell: Callable[[PeerHeard | PeerLost], None],
        lacks: dict[str, str],
        unjoined: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._host = host
        self._target = f"Supervisor/{host}"
        self._client = client
        self._now = clock.monotonic
        self._tell = tell
        self._lacks = lacks
        self._unjoined = unjoined
        self._known = False

    async def follow(self) -> NoReturn:
        """Follows the peer until cancelled."""
        await keep_up(self._client, self._target, [PROCESS_CHANGED.name], self)

    async def look(self) -> Mapping[str, Cursor]:
        """Lists its processes."""
        listed = await self._client.call(
            self._target, LIST_PROCESSES, ListProcesses(), timeout_s=ASK_TIMEOUT_S, idempotent=False
        )
        for process in listed.processes:
            self._heard(process)
        self._known = True
        self._lacks.pop(f"peer {self._host}", None)
        return {PROCESS_CHANGED.name: listed.as_of}

    def take(self, event: Event) -> None:
        """What is no change of a process is passed over: the next list has it."""
        with suppress(msgspec.MsgspecError, UnicodeError):
            self._heard(msgspec.json.decode(event.body, type=ProcessChanged).process)

    def away(self, reason: str) -> None:
        """It is lacked; and lost, if it was heard since it was last lost."""
        told = self._unjoined().get(self._host) or f"{self._host}'s supervisor is not heard: {reason}"
        self._lacks[f"peer {self._host}"] = told
        if self._known:
            self._tell(PeerLost(self._host, self._now()))
        self._known = False

    def _heard(self, process: Process) -> None:
        self._tell(PeerHeard(self._host, process.name, process.phase, self._now()))
