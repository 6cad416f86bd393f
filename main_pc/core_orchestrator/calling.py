"""Calls to agents: performs a `Send` at the agent's own endpoint, in its dress, through its breaker, exactly once.

The call's end, whatever it is, is handed over once. A call that is not wanted any more is withdrawn where the agent can be
told (native); a plain agent cannot, so its call is heard out, for until then the agent is busy.

It decides neither who is called nor what an end means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from common.api.core_orchestrator import Dress
from common.api.words import Access, AnyVerb, Message, Verb
from common.client.aio import AsyncClient
from common.client.pursuit import Found
from common.dispatch.answers import Parts, result_of
from common.errors import Cancelled, Internal, NotFound, TandemError, Unavailable
from common.resilience.breaker import State as Breaker
from common.service.shell import Shell
from common.transport.sockets import MAX_MESSAGE_BYTES, Endpoint
from main_pc.core_orchestrator.instructions import Send
from main_pc.core_orchestrator.location import Asker, Routes, endpoint_for
from main_pc.core_orchestrator.registry import Registry

Key = tuple[str, int]
"""A call's name: the request's id and the attempt."""

Ended = Callable[[Send, "object | TandemError"], None]
"""Told once of a call's end: the result, or the error."""

FIELDS: Final[dict[str, Any]] = {
    "request_id": str,
    "data": str,
    "audio_data": memoryview,
    "image_data": memoryview,
    "params": dict[str, Any],
}
"""What an agent may be sent; binary fields travel as frames of their own."""


@dataclass(slots=True)
class OpenCall:
    """One call under way."""

    send: Send
    dress: Dress
    task: asyncio.Task[None] | None = None
    withdrawn: bool = False


class Calling:
    """The calls under way. `ended` hears of each end, `part` of each part (request id, attempt, part)."""

    def __init__(
        self,
        shell: Shell,
        client: AsyncClient,
        registry: Registry,
        routes: Routes,
        ended: Ended,
        part: Callable[[str, int, Any], None],
    ) -> None:
        self._shell = shell
        self._client = client
        self._registry = registry
        self._routes = routes
        self._asker = Asker(shell.settings.host, native=True)
        self._ended = ended
        self._part = part
        self._open: dict[Key, OpenCall] = {}

    @property
    def open(self) -> Collection[Key]:
        """The calls under way."""
        return self._open.keys()

    def breaker_of(self, agent_name: str) -> tuple[Breaker, float]:
        """The agent's breaker, and when an open one lets a probe through (monotonic seconds)."""
        try:
            state, retry_in_s = self._client.breaker_at(self._found(agent_name).endpoint)
        except Unavailable:
            return Breaker.CLOSED, 0.0
        return state, self._shell.clock.monotonic() + retry_in_s

    def start(self, send: Send) -> None:
        """Call the agent; its end is told later, never from within this call."""
        call = OpenCall(send, self._dress(send.agent_name))
        self._open[send.request_id, send.attempt] = call
        call.task = self._shell.spawn(self._perform(call), f"{send.verb} of {send.agent_name}")

    def withdraw(self, key: Key) -> None:
        """The call's outcome is not wanted any more."""
        call = self._open.get(key)
        if call is not None and call.dress == "native":
            self._cancel(call)

    def lose(self, keys: Iterable[Key]) -> None:
        """The agent that these calls went to is gone: nobody is left to be heard out."""
        for key in keys:
            call = self._open.get(key)
            if call is not None:
                self._cancel(call)

    async def finish(self, within_s: float) -> None:
        """Let the calls under way end, and drop those that have not after `within_s` without telling of them."""
        tasks = [call.task for call in self._open.values() if call.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=within_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)

    def _cancel(self, call: OpenCall) -> None:
        if call.task is not None and not call.withdrawn:
            call.withdrawn = True
            call.task.cancel()

    def _dress(self, agent_name: str) -> Dress:
        try:
            return self._registry.entry(agent_name).asked.dress
        except NotFound:
            return "native"

    def _found(self, agent_name: str) -> Found:
        try:
            entry = self._registry.entry(agent_name)
        except NotFound as gone:
            raise Unavailable(f"{agent_name} left before it was called") from gone
        at = endpoint_for(entry, self._asker, self._routes)
        return Found(Endpoint.tcp(at.host, at.port), at.dress)

    async def _perform(self, call: OpenCall) -> None:
        outcome: object
        try:
            outcome = await self._answer(call.send)
        except TandemError as error:
            outcome = error
        except asyncio.CancelledError:
            if not call.withdrawn:
                raise
            outcome = Cancelled("withdrawn")
        except Exception as bug:
            self._shell.log.exception("a call to %s failed inside the service", call.send.agent_name)
            outcome = Internal(f"the call to {call.send.agent_name} failed inside the service: {type(bug).__name__}")
        finally:
            del self._open[call.send.request_id, call.send.attempt]
        self._ended(call.send, outcome)

    async def _answer(self, send: Send) -> object:
        found = self._found(send.agent_name)
        verb, request = message_for(send.verb, send.payload)
        timeout_s = max(0.0, send.deadline - self._shell.clock.monotonic())
        parts = Parts(lambda part: self._part(send.request_id, send.attempt, part), MAX_MESSAGE_BYTES)
        reply = await self._client.call_at(found, verb, request, timeout_s=timeout_s, part=parts.take)
        return result_of(reply, parts.kept, plain=found.dress == "plain")


def message_for(verb: str, payload: dict[str, Any]) -> tuple[AnyVerb, Message]:
    """The agent's verb and the request it is called with: the payload's fields and no others."""
    spec = _verb(verb, tuple(payload))
    fields = {name: memoryview(value) if FIELDS[name] is memoryview else value for name, value in payload.items()}
    return spec, spec.request(**fields)


@lru_cache(maxsize=4_096)
def _verb(name: str, fields: tuple[str, ...]) -> AnyVerb:
    request = msgspec.defstruct(
        f"{name}_work", [(field, FIELDS[field]) for field in fields], bases=(Message,), frozen=True, kw_only=True
    )
    reply: Any = dict[str, Any]
    return Verb(name, request, reply, Access.USE, idempotent=False, part=reply)
