"""The verb `forward`: asks an agent on this host's loopback for another host's relay, and gives its answer back as it came.

It serves other hosts alone, and only agents that are registered on this host's loopback, which those cannot reach themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import zmq

from common.api import relays
from common.api.core_orchestrator import Agent
from common.errors import (
    BadRequest,
    DeadlineExceeded,
    Forbidden,
    Interrupted,
    NotFound,
    Overloaded,
    TandemError,
    TooLarge,
    Unavailable,
)
from common.registry.location import is_own_host
from common.service.call import Call
from common.service.shell import Shell
from common.transport.channel import Channel
from common.transport.sockets import Endpoint
from common.wire import header
from common.wire.frames import NATIVE, Buffer, Malformed, framed
from common.wire.header import PROTOCOL, CallHeader, CallKind, ReplyKind

AT_ONCE: Final = 512
"""Calls passed on at a time; each has a connection of its own, since a plain agent answers one after the other."""

LONGEST_S: Final = 900.0
HEARD_S: Final = 2.0
"""An agent that is not known here is waited for so long: the copies of two hosts are never in step to the moment."""

WITHDRAWN_LINGER_MS: Final = 500


class Forwarding:
    """Serves it; `agent` is the registry's word on an agent, as this host knows it."""

    def __init__(self, shell: Shell, agent: Callable[[str], Agent | None]) -> None:
        self._shell = shell
        self._host = shell.settings.host
        self._agent = agent
        self._under_way = 0
        self._news = asyncio.Event()

    def add_routes(self) -> None:
        """Serve the verb."""
        self._shell.handle(relays.FORWARD, self._forward)

    async def _forward(self, asked: relays.Forward, call: Call) -> relays.Forwarded:
        self._check(asked, call)
        within_s = call.patience_s(self._shell.clock.monotonic(), min(asked.within_s, LONGEST_S))
        if self._under_way >= AT_ONCE:
            raise Overloaded(f"{AT_ONCE} calls are being passed on to agents of {self._host}", retry_after_ms=100)
        self._under_way += 1
        try:
            return await self._exchange(asked, call, within_s)
        finally:
            self._under_way -= 1

    async def _exchange(self, asked: relays.Forward, call: Call, within_s: float) -> relays.Forwarded:
        agent = await self._located(asked.agent_name, min(within_s, HEARD_S))
        exchange = Exchange(self._shell.context, Endpoint.tcp("127.0.0.1", agent.port))
        try:
            async with asyncio.timeout(within_s):
                return await exchange.ask(asked.frames, call)
        except asyncio.CancelledError:
            exchange.withdraw(asked.frames[0])
            raise
        except TimeoutError:
            exchange.withdraw(asked.frames[0])
            raise DeadlineExceeded(
                f"{asked.agent_name} on {self._host} did not answer within {within_s:.3f} s"
            ) from None
        finally:
            exchange.close()

    def _check(self, asked: relays.Forward, call: Call) -> None:
        if call.host == self._host:
            raise Forbidden(
                f"{asked.agent_name} can be asked by itself from {self._host}", mend="look it up and call it"
            )
        size = sum(len(frame) for frame in asked.frames)
        if size > relays.MAX_FORWARDED_BYTES:
            raise TooLarge(f"{size} bytes for {asked.agent_name}; at most {relays.MAX_FORWARDED_BYTES} are passed on")
        if isinstance(framed(asked.frames), Malformed):
            raise BadRequest(f"{len(asked.frames)} frames in no known dress")

    def registered(self) -> None:
        """The registry's word on some agent is another one."""
        self._news.set()
        self._news = asyncio.Event()

    async def _located(self, agent_name: str, patience_s: float) -> Agent:
        """The agent, which the asking host may have heard of a moment before this one. NotFound."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while (agent := self._here(agent_name)) is None:
                    await self._news.wait()
                return agent
        raise NotFound(f"no agent {agent_name!r} is registered on the loopback of {self._host}")

    def _here(self, agent_name: str) -> Agent | None:
        agent = self._agent(agent_name)
        return agent if agent is not None and agent.location == self._host and is_own_host(agent.host) else None


class Exchange:
    """One question to one agent, and its answers."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint) -> None:
        self._said: asyncio.Queue[Sequence[Buffer] | TandemError] = asyncio.Queue()
        self._channel = Channel(context, endpoint, self)

    async def ask(self, frames: Sequence[bytes], call: Call) -> relays.Forwarded:
        """The last answer; parts before it are handed on. Raises Unavailable or Interrupted where there is none."""
        self._channel.send((b"", *frames))
        while True:
            said = await self._said.get()
            if isinstance(said, TandemError):
                raise said
            answer = relays.Forwarded(frames=[bytes(frame) for frame in said])
            if not _is_part(answer.frames[0]):
                return answer
            call.part(answer)

    def withdraw(self, first: bytes) -> None:
        """The answer is not wanted any more; a plain agent cannot be told so."""
        if first[:1] == bytes([NATIVE]) and self._channel.is_connected:
            call_id = header.decode_call(first).id
            self._channel.send((b"", header.encode(CallHeader(PROTOCOL, CallKind.WITHDRAW, call_id)), b""))
            self._channel.close(WITHDRAWN_LINGER_MS)

    def message(self, frames: list[Buffer]) -> None:
        """The agent said something."""
        size = sum(len(frame) for frame in frames)
        if size > relays.MAX_FORWARDED_BYTES:
            self._said.put_nowait(
                TooLarge(f"the agent answered {size} bytes; {relays.MAX_FORWARDED_BYTES} are passed on")
            )
        else:
            self._said.put_nowait(frames[1:] if len(frames) > 1 and not len(frames[0]) else frames)

    def connected(self) -> None:
        """The connection stands."""

    def lost(self, reason: str) -> None:
        """It may have been done."""
        self._said.put_nowait(Interrupted(f"{reason} before the call was answered"))

    def refused(self, reason: str, _unsent: int) -> None:
        """Nothing was done."""
        self._said.put_nowait(Unavailable(reason))

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()


def _is_part(first: bytes) -> bool:
    if first[:1] != bytes([NATIVE]):
        return False
    try:
        return header.decode_reply(first).kind is ReplyKind.PART
    except BadRequest:
        return False
