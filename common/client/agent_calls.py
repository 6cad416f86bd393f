"""Calls that a dispatcher makes to agents: each at the agent's own endpoint, in its dress, through its breaker, exactly once.

The call's end, whatever it is, is handed over once. A call that is not wanted any more is withdrawn where the agent can be
told (native); a plain agent cannot, so its call is heard out, for until then the agent is busy. An error's text is kept in
records and shown to others than the caller, so it is handed over with the agent's name, without what looks like a secret, and
cut, as logs are.

It decides neither who is called nor what an end means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from common.api.words import AnyVerb
from common.client.aio import AsyncClient
from common.client.pursuit import Found
from common.clock import Clock
from common.dispatch.answers import Parts, result_of
from common.dispatch.load import Call
from common.errors import Cancelled, Internal, TandemError
from common.telemetry.showing import TEXT_CHARS, shown
from common.transport.sockets import MAX_MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class Work:
    """What a call is about: `find` says where the agent answers when it is called, or raises why it cannot be called;
    `deadline` is monotonic seconds; `part` hears of each streamed part, and `ended` of the result or the error.
    """

    call: Call
    agent_name: str
    find: Callable[[], Found]
    verb: AnyVerb
    request: Any
    deadline: float
    part: Callable[[Any], None]
    ended: Callable[[object | TandemError], None]


@dataclass(slots=True)
class _Open:
    """One call under way."""

    work: Work
    task: asyncio.Task[None] | None = None
    plain: bool = False
    withdrawn: bool = False


class AgentCalls:
    """The calls under way; `spawn` runs one beside whatever else its keeper does."""

    def __init__(
        self, client: AsyncClient, clock: Clock, spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
    ) -> None:
        self._client = client
        self._clock = clock
        self._spawn = spawn
        self._open: dict[Call, _Open] = {}
        self._log = logging.getLogger("tandem.client")

    @property
    def open(self) -> Collection[Call]:
        """The calls under way."""
        return self._open.keys()

    def start(self, work: Work) -> None:
        """Call the agent; its end is told later, never from within this call."""
        call = self._open[work.call] = _Open(work)
        call.task = self._spawn(self._perform(call), f"{work.verb.name} of {work.agent_name}")
        call.task.add_done_callback(lambda _: self._never_ran(call))

    def withdraw(self, call: Call) -> None:
        """The call's outcome is not wanted any more."""
        known = self._open.get(call)
        if known is not None and not known.plain:
            self._cancel(known)

    def lose(self, calls: Iterable[Call]) -> None:
        """The agent that these calls went to is gone: nobody is left to be heard out."""
        for call in calls:
            known = self._open.get(call)
            if known is not None:
                self._cancel(known)

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

    def _cancel(self, call: _Open) -> None:
        if call.task is not None and not call.withdrawn:
            call.withdrawn = True
            call.task.cancel()

    async def _perform(self, call: _Open) -> None:
        work = call.work
        outcome: object
        try:
            outcome = await self._answer(call)
        except TandemError as error:
            error.message = shown(_with_its_name(error.message, work.agent_name), TEXT_CHARS)
            outcome = error
        except asyncio.CancelledError:
            if not call.withdrawn:
                raise
            outcome = Cancelled("withdrawn")
        except Exception as bug:
            self._log.exception("a call to %s failed inside this process", work.agent_name)
            outcome = Internal(f"the call to {work.agent_name} failed inside this service: {type(bug).__name__}")
        finally:
            del self._open[work.call]
        work.ended(outcome)

    def _never_ran(self, call: _Open) -> None:
        """A call that was withdrawn before its first step had no time to say so; its end is told here."""
        if self._open.get(call.work.call) is call:
            del self._open[call.work.call]
            if call.withdrawn:
                call.work.ended(Cancelled("withdrawn"))

    async def _answer(self, call: _Open) -> object:
        work = call.work
        found = work.find()
        call.plain = found.dress == "plain"
        timeout_s = max(0.0, work.deadline - self._clock.monotonic())
        parts = Parts(work.part, MAX_MESSAGE_BYTES)
        reply = await self._client.call_at(found, work.verb, work.request, timeout_s=timeout_s, part=parts.take)
        return result_of(reply, parts.kept, plain=call.plain)


def _with_its_name(message: str, agent_name: str) -> str:
    """An error's text for whoever asked for work and not for this agent."""
    return message if agent_name in message else f"{agent_name}: {message}"
