"""The client's asynchronous face: calls by name, streams, and events without gaps, on the running loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple, TypeVar, overload

import zmq

from common.api import basic, core_orchestrator
from common.api.basic import BreakerStats
from common.api.words import AnyVerb, Cursor, Message, Verb
from common.client.credentials import NOBODY, Credentials
from common.client.directory import Directory, Place
from common.client.following import Event, Lost
from common.client.guard import Endangered, Guard
from common.client.inboxes import Inboxes
from common.client.link import Link
from common.client.names import NameCache
from common.client.plain_link import PlainLink
from common.client.pursuit import Find, Forget, Found, Pause, Pursuit, Rules, Send, pursue
from common.client.registry import Registry
from common.client.settings import ClientSettings
from common.client.verbs import keyed, repeatable, request_for, verb_named
from common.clock import Clock, Rng
from common.errors import Interrupted, TandemError, Unavailable
from common.resilience.breaker import State
from common.transport import sockets
from common.transport.sockets import Endpoint

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)

SWEEP_S: Final = 10.0
IDLE_SWEEPS: Final = 6
"""A link without a call for this many sweeps is closed."""


class _Line(NamedTuple):
    """A well-known service within reach: what a first attempt needs."""

    link: Link
    guards: Endangered
    endpoint: Endpoint


class AsyncClient:
    """Calls services by their names and agents by theirs; made and used on one running loop.

    `asker_host` is the fabric's host this process runs on, to which the registry's answers are relative.
    """

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        rng: Rng,
        settings: ClientSettings | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        credentials: Credentials = NOBODY,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._settings = settings or ClientSettings()
        self._credentials = credentials
        self._shows_tokens = credentials.shows_tokens or bool(self._settings.token)
        self._clock = clock
        self._now = clock.monotonic
        self._own_context = context is None
        self._context = context or sockets.new_context()
        self._guard = Guard(rng, self._settings.breaker, self._settings.retry)
        self._rules = Rules(clock, rng, self._guard, self._settings.retry)
        self._links: dict[tuple[Endpoint, str], Link | PlainLink] = {}
        self._lines: dict[str, _Line] = {}
        self._unused: dict[tuple[Endpoint, str], int] = {}
        self._names = NameCache()
        self._registry = Registry(directory, credentials, self._names, clock, self._asked, self._changes)
        self._inboxes = Inboxes(self._context, self._place, self._publisher, self._past)
        self._closed = False
        self._sweeping = self._loop.create_task(self._sweep())
        self._log = logging.getLogger("tandem.client")

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @overload
    async def call(
        self,
        target: str,
        verb: Verb[Req, Rep],
        request: Req,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> Rep: ...

    @overload
    async def call(
        self,
        target: str,
        verb: str,
        request: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> dict[str, Any]: ...

    async def call(
        self,
        target: str,
        verb: AnyVerb | str,
        request: Any = None,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> Any:
        """Call `verb` of a service or agent; all attempts together take at most `timeout_s`.

        A verb by its name takes and returns a dict. Raises the TandemError that ended it; tries again by itself only where
        that can help and the verb is idempotent (by the catalog, by its key, or because the caller says so). A request that may
        carry an idempotency key gets one where it has none.
        """
        known = verb_named(verb, target) if isinstance(verb, str) else verb
        if request is None:
            request = request_for(known, request)
        if not known.idempotent:
            request = keyed(known, request, self._rules.rng)
        now = self._now()
        deadline = now + (self._settings.timeout_s if timeout_s is None else timeout_s)
        line = self._lines.get(target)
        failed: TandemError | None = None
        if line is not None:
            try:
                return await self._first(target, line, known, request, now, deadline)
            except TandemError as error:
                failed = error
        again = repeatable(known, request) if idempotent is None else idempotent
        return await self._perform(pursue(self._rules, target, known, request, deadline, again, failed))

    async def _first(self, target: str, line: _Line, verb: AnyVerb, request: Any, now: float, deadline: float) -> Any:
        permit = self._guard.permit(line.guards, now)
        line.guards.retries.deposit()
        try:
            token = self._token(target, line.endpoint, verb) if self._shows_tokens else None
            call_id, ended = line.link.begin(verb, request, now, deadline, None, token)
        except BaseException:
            line.guards.breaker.release(permit)
            raise
        try:
            reply = await ended
        except TandemError as error:
            self._guard.record(line.guards, permit, error, now, self._now())
            raise
        except BaseException:
            line.link.withdraw(call_id)
            line.guards.breaker.release(permit)
            raise
        self._guard.record(line.guards, permit, None, now, self._now())
        return reply

    async def _perform(self, pursuit: Pursuit) -> Any:
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = pursuit.send(outcome) if error is None else pursuit.throw(error)
            except StopIteration as end:
                return end.value
            outcome = error = None
            try:
                if type(step) is Send:
                    outcome = await self._send(step)
                elif type(step) is Find:
                    outcome = await self._find(step.target, step.deadline)
                elif type(step) is Pause:
                    await self._pause(step.seconds)
                elif type(step) is Forget:
                    self._names.forget(step.target)
                    self._lines.pop(step.target, None)
            except BaseException as raised:
                error = raised

    async def _pause(self, seconds: float) -> None:
        if self._closed:
            raise Interrupted("the client was closed")
        await asyncio.sleep(seconds)

    @property
    def has_keys(self) -> bool:
        """Whether this process can speak CURVE."""
        return self._credentials.has_keys

    def found(self, at: core_orchestrator.Endpoint) -> Found:
        """An answer of the registry as a place for `call_at`; Unavailable when it names a key that is not known here."""
        return self._credentials.found(at)

    async def locate(self, agent_name: str, *, timeout_s: float) -> Found:
        """Where the registry says now that an agent answers, for `call_at`; raises the TandemError that ended the asking."""
        return await self._registry.find(agent_name, self._now() + timeout_s)

    async def _find(self, target: str, deadline: float) -> Found:
        return self._at_hand(target) or await self._registry.find(target, deadline)

    def _at_hand(self, target: str) -> Found | None:
        place = self._directory.place(target)
        if place is not None:
            place = self._credentials.dressed(place)
            self._lines[target] = self._line(place.requests)
            return Found(place.requests)
        known = self._names.lookup(target, self._now())
        return None if known is None else Found(known.endpoint, known.dress)

    def _line(self, endpoint: Endpoint) -> _Line:
        link = self._link(Found(endpoint))
        assert isinstance(link, Link)
        return _Line(link, self._guard.of(endpoint.address, self._now()), endpoint)

    async def _asked(
        self, source: str, asked: core_orchestrator.LocateAgent, timeout_s: float
    ) -> core_orchestrator.Endpoint:
        return await self.call(source, core_orchestrator.GET_AGENT_ENDPOINT, asked, timeout_s=timeout_s)

    def _changes(self, live: Callable[[], None], heard: Callable[[], None]) -> AsyncIterator[Event | Lost]:
        return self.events(core_orchestrator.SERVICE, [core_orchestrator.AGENTS_CHANGED.name], live=live, heard=heard)

    async def _send(self, step: Send) -> Any:
        token = self._token(step.target, step.found.endpoint, step.verb)
        return await self._link(step.found).call(step.verb, step.request, step.deadline, None, token)

    def _token(self, target: str, endpoint: Endpoint, verb: AnyVerb) -> str | None:
        return self._settings.token or self._credentials.token(target, endpoint, verb)

    def _link(self, found: Found) -> Link | PlainLink:
        link = self._links.get((found.endpoint, found.dress))
        if link is None:
            if self._closed:
                raise Unavailable("the client was closed")
            make = Link if found.dress == "native" else PlainLink
            link = self._links[found.endpoint, found.dress] = make(self._context, found.endpoint, self._clock)
        return link

    async def call_at(
        self,
        found: Found,
        verb: AnyVerb,
        request: Any,
        *,
        timeout_s: float,
        part: Callable[[Any], None] | None = None,
    ) -> Any:
        """Call a known endpoint in its dress, once, through its breaker; `part` is called with each part of a streamed reply.

        Raises the TandemError that ended it.
        """
        now = self._now()
        with self._guard.attempt(self._guard.of(found.endpoint.address, now), self._clock):
            token = self._token("", found.endpoint, verb)
            return await self._link(found).call(verb, request, now + timeout_s, part, token)

    async def stream(
        self, target: str, verb: AnyVerb | str, request: Any = None, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """The parts of a streamed reply, then the final reply as the last item. Never sent twice."""
        known = verb_named(verb, target) if isinstance(verb, str) else verb
        now = self._now()
        deadline = now + (self._settings.timeout_s if timeout_s is None else timeout_s)
        found = await self._find(target, deadline)
        try:
            with self._guard.attempt(self._guard.of(found.endpoint.address, now), self._clock) as attempt:
                token = self._token(target, found.endpoint, known)
                stream = self._link(found).stream(known, request_for(known, request), deadline, token)
                async with aclosing(stream) as items:
                    async for item in items:
                        attempt.answered_at = attempt.answered_at or self._now()
                        yield item
        except Unavailable:
            self._names.forget(target)
            raise

    def events(
        self,
        target: str,
        topics: Sequence[str],
        since: dict[str, Cursor] | None = None,
        *,
        live: Callable[[], None] = lambda: None,
        heard: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[Event | Lost]:
        """The events of a service's topics, in order and without gaps, from `since` (a list verb's `as_of`) or from now on.

        A Lost says that some could not be had again: list anew. `live` is called when the subscription stands, `heard` at
        every sign of the publisher.
        """
        return self._inboxes.follow(target, topics, since, live, heard)

    def _publisher(self, target: str, known: Endpoint) -> Endpoint:
        """Where a well-known service publishes, by the keys of now; of an agent what was `known`. Unavailable."""
        place = self._directory.place(target)
        return known if place is None else self._credentials.dressed(place).events or known

    async def _place(self, target: str) -> Place:
        place = self._directory.place(target)
        if place is not None:
            return self._credentials.dressed(place)
        at = await self._registry.locate(target, self._now() + self._settings.timeout_s)
        return self._credentials.place(at)

    async def _past(self, target: str, asked: basic.EventsSince) -> basic.Events:
        return await self.call(target, basic.EVENTS_SINCE, asked, timeout_s=5.0)

    def breakers(self) -> list[BreakerStats]:
        """Every endpoint's breaker as it stands."""
        return self._guard.stats(self._clock.monotonic())

    def breaker_at(self, endpoint: Endpoint) -> tuple[State, float]:
        """The state of one endpoint's breaker, and when an open one lets a probe through (monotonic seconds)."""
        return self._guard.state_at(endpoint.address)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for key, link in list(self._links.items()):
                self._unused[key] = self._unused.get(key, 0) + 1 if link.has_rested() else 0
                if self._unused[key] > IDLE_SWEEPS:
                    del self._links[key], self._unused[key]
                    self._lines = {target: line for target, line in self._lines.items() if line.link is not link}
                    link.close()

    async def close(self) -> None:
        """Disconnect everything; calls under way and events that are followed end as interrupted."""
        self._closed = True
        self._inboxes.close()
        self._sweeping.cancel()
        await asyncio.gather(self._sweeping, self._registry.close(), return_exceptions=True)
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._lines.clear()
        if self._own_context:
            await sockets.end(self._context)
