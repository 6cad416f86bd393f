"""Calls to agents: makes a `Send` a call at the place that the registry has for the agent.

It decides neither who is called nor what an end means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec

from common.api.words import Access, AnyVerb, Message, Verb
from common.client.agent_calls import AgentCalls, Work
from common.client.aio import AsyncClient
from common.client.pursuit import Found
from common.errors import NotFound, TandemError, Unavailable
from common.registry.location import Asker, Routes, endpoint_for
from common.resilience.breaker import State as Breaker
from common.service.shell import Shell
from main_pc.core_orchestrator.instructions import Send
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
        self._client = client
        self._registry = registry
        self._routes = routes
        self._asker = Asker(shell.settings.host, curve=client.has_keys)
        self._ended = ended
        self._part = part
        self._calls = AgentCalls(client, shell.clock, shell.spawn)

    @property
    def open(self) -> Collection[Key]:
        """The calls under way."""
        return self._calls.open

    def breaker_of(self, agent_name: str) -> tuple[Breaker, float]:
        """The agent's breaker, and when an open one lets a probe through (monotonic seconds)."""
        try:
            return self._client.breaker_at(self._found(agent_name).endpoint)
        except Unavailable:
            return Breaker.CLOSED, 0.0

    def start(self, send: Send) -> None:
        """Call the agent; its end is told later, never from within this call."""
        key = (send.request_id, send.attempt)
        verb, request = message_for(send.verb, send.payload)
        self._calls.start(
            Work(
                call=key,
                agent_name=send.agent_name,
                find=lambda: self._found(send.agent_name),
                verb=verb,
                request=request,
                deadline=send.deadline,
                part=lambda part: self._part(*key, part),
                ended=lambda outcome: self._ended(send, outcome),
            )
        )

    def withdraw(self, key: Key) -> None:
        """The call's outcome is not wanted any more; a plain agent cannot be told so, and is heard out."""
        self._calls.withdraw(key)

    def lose(self, keys: Iterable[Key]) -> None:
        """The agent that these calls went to is gone: nobody is left to be heard out."""
        self._calls.lose(keys)

    async def finish(self, within_s: float) -> None:
        """Let the calls under way end, and drop those that have not after `within_s` without telling of them."""
        await self._calls.finish(within_s)

    def _found(self, agent_name: str) -> Found:
        try:
            entry = self._registry.entry(agent_name)
        except NotFound as gone:
            raise Unavailable(f"{agent_name} left before it was called") from gone
        return self._client.found(endpoint_for(entry, self._asker, self._routes))


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
