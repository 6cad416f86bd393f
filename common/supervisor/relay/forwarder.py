"""A line to a far agent that has no encrypted port: each message goes through the agent's own supervisor, which asks it there.

The way to that supervisor is this relay's own port for it, so that a link that is down is told here and at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from common.api import relays
from common.client.aio import AsyncClient
from common.client.pursuit import Found
from common.errors import Cancelled, TandemError, TooLarge, Unavailable
from common.supervisor.relay import nat
from common.supervisor.relay.requests import LOOPBACK, Requests
from common.transport.sockets import Endpoint
from common.wire import header
from common.wire.frames import NATIVE
from common.wire.header import CallKind

_HEAD: Final = 2
"""A forwarded message begins behind its number and an empty frame."""


class Forwarder:
    """The line to `agent_name`; `supervisor` is the port here of its host's supervisor, 0 while there is none."""

    backlog = 0

    def __init__(self, client: AsyncClient, agent_name: str, supervisor: Callable[[], int], requests: Requests) -> None:
        self._client = client
        self._agent_name = agent_name
        self._supervisor = supervisor
        self._requests = requests
        self._calls: dict[bytes, asyncio.Task[None]] = {}
        requests.connected()

    def send(self, step: nat.Forward) -> None:
        """Begin a call, or end one that is withdrawn."""
        number, frames = bytes(step.frames[0]), [bytes(frame) for frame in step.frames[_HEAD:]]
        if _withdraws(frames[0]):
            call = self._calls.get(number)
            if call is not None:
                call.cancel()
            return
        call = self._calls[number] = asyncio.create_task(self._call(number, frames, step.patience_s))
        call.add_done_callback(lambda _: self._calls.pop(number, None))

    async def _call(self, number: bytes, frames: list[bytes], patience_s: float) -> None:
        try:
            answer = await self._ask(number, frames, patience_s)
        except TandemError as error:
            self._requests.failed(number, error)
        except asyncio.CancelledError:
            self._requests.failed(number, Cancelled(f"the call to {self._agent_name} was withdrawn"))
            raise
        else:
            self._requests.message([number, b"", *answer.frames])

    async def _ask(self, number: bytes, frames: list[bytes], patience_s: float) -> relays.Forwarded:
        size = sum(len(frame) for frame in frames)
        if size > relays.MAX_FORWARDED_BYTES:
            limit = relays.MAX_FORWARDED_BYTES
            raise TooLarge(
                f"{size} bytes for {self._agent_name}, which is reached through its supervisor; at most {limit} pass"
            )
        port = self._supervisor()
        if not port:
            raise Unavailable(f"{self._agent_name} is reached through its supervisor, and no port here leads there")
        request = relays.Forward(agent_name=self._agent_name, frames=frames, within_s=patience_s)

        def part(said: Any) -> None:
            self._requests.message([number, b"", *said.frames])

        found = Found(Endpoint.tcp(LOOPBACK, port))
        answer: relays.Forwarded = await self._client.call_at(
            found, relays.FORWARD, request, timeout_s=patience_s, part=part
        )
        return answer

    def close(self) -> None:
        """End every call under way."""
        for call in list(self._calls.values()):
            call.cancel()


def _withdraws(first: bytes) -> bool:
    return first[:1] == bytes([NATIVE]) and header.decode_call(first).kind is CallKind.WITHDRAW
