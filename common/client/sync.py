"""The client's synchronous face, for programs without a loop: the same names, breakers, retries and events, blocking."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar, overload

from common.api import basic, core_orchestrator
from common.api.basic import BreakerStats
from common.api.words import AnyVerb, Cursor, Message, Verb
from common.client.blocking_link import BlockingLink, PlainBlockingLink
from common.client.blocking_subscription import BlockingSubscription
from common.client.credentials import NOBODY, Credentials
from common.client.directory import Directory, Place
from common.client.following import Event, Fill, Following, Lost, Notice, taken
from common.client.guard import Guard
from common.client.locating import Sources
from common.client.names import NameCache
from common.client.pursuit import Find, Forget, Found, Pause, Pursuit, Rules, Send, pursue
from common.client.settings import ClientSettings
from common.client.verbs import keyed, repeatable, request_for, verb_named
from common.clock import Clock, Rng
from common.errors import BadRequest, SnapshotRequired, TandemError, Unavailable
from common.transport import sockets
from common.transport.sockets import Endpoint
from common.wire.frames import Buffer

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)

LINKS_KEPT: Final = 256
"""Connections kept; beyond them the one without a call for longest is closed."""


class Client:
    """Calls services by their names and agents by theirs; safe to share between threads, one call at a time."""

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        rng: Rng,
        settings: ClientSettings | None = None,
        credentials: Credentials = NOBODY,
    ) -> None:
        self._directory = directory
        self._credentials = credentials
        self._clock = clock
        self._settings = settings or ClientSettings()
        self._context = sockets.new_context()
        self._guard = Guard(rng, self._settings.breaker, self._settings.retry)
        self._rules = Rules(clock, rng, self._guard, self._settings.retry)
        self._links: dict[tuple[Endpoint, str], BlockingLink | PlainBlockingLink] = {}
        self._names = NameCache()
        self._sources = Sources(directory.supervisors_here(), clock)
        self._subscriptions: set[BlockingSubscription] = set()
        self._lock = threading.RLock()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def call(
        self,
        target: str,
        verb: Verb[Req, Rep],
        request: Req,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> Rep: ...

    @overload
    def call(
        self,
        target: str,
        verb: str,
        request: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> dict[str, Any]: ...

    def call(
        self,
        target: str,
        verb: AnyVerb | str,
        request: Any = None,
        *,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> Any:
        """Call `verb` of a service or agent; all attempts together take at most `timeout_s`. See AsyncClient.call."""
        known = verb_named(verb, target) if isinstance(verb, str) else verb
        request = keyed(known, request_for(known, request), self._rules.rng)
        deadline = self._deadline(timeout_s)
        again = repeatable(known, request) if idempotent is None else idempotent
        with self._lock:
            return self._perform(pursue(self._rules, target, known, request, deadline, again))

    def _deadline(self, timeout_s: float | None) -> float:
        return self._clock.monotonic() + (self._settings.timeout_s if timeout_s is None else timeout_s)

    def _perform(self, pursuit: Pursuit) -> Any:
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = pursuit.send(outcome) if error is None else pursuit.throw(error)
            except StopIteration as end:
                return end.value
            outcome = error = None
            try:
                if isinstance(step, Send):
                    token = self._token(step.target, step.found.endpoint, step.verb)
                    outcome = self._link(step.found).call(step.verb, step.request, step.deadline, token)
                elif isinstance(step, Find):
                    outcome = self._find(step.target, step.deadline)
                elif isinstance(step, Pause):
                    time.sleep(step.seconds)
                elif isinstance(step, Forget):
                    self._names.forget(step.target)
            except BaseException as raised:
                error = raised

    def _find(self, target: str, deadline: float) -> Found:
        place = self._directory.place(target)
        if place is not None:
            return Found(self._credentials.dressed(place).requests)
        known = self._names.lookup(target, self._clock.monotonic())
        if known is not None:
            return Found(known.endpoint, known.dress)
        changes = self._names.changes
        at = self._ask_registry(target, deadline)
        now = self._clock.monotonic()
        found = self._credentials.found(at)
        self._names.learn(target, found.endpoint, found.dress, changes, now)
        return found

    def _token(self, target: str, endpoint: Endpoint, verb: AnyVerb) -> str | None:
        return self._settings.token or self._credentials.token(target, endpoint, verb)

    def _ask_registry(self, target: str, deadline: float) -> core_orchestrator.Endpoint:
        asked = core_orchestrator.LocateAgent(agent_name=target, curve=self._credentials.has_keys)
        locating = self._sources.locate(deadline)
        step = next(locating)
        while True:
            try:
                at = self.call(step.target, core_orchestrator.GET_AGENT_ENDPOINT, asked, timeout_s=step.timeout_s)
            except TandemError as error:
                step = locating.throw(error)
            else:
                return at

    def _link(self, found: Found) -> BlockingLink | PlainBlockingLink:
        if self._context.closed:
            raise Unavailable("the client was closed")
        key = found.endpoint, found.dress
        link = self._links.pop(key, None)
        if link is None:
            self._make_room()
            make = BlockingLink if found.dress == "native" else PlainBlockingLink
            link = make(self._context, found.endpoint, self._clock)
        self._links[key] = link
        return link

    def _make_room(self) -> None:
        """Close the link that was without a call for longest, where there are LINKS_KEPT."""
        idle = (key for key, link in self._links.items() if link.idle)
        if len(self._links) >= LINKS_KEPT and (oldest := next(idle, None)) is not None:
            self._links.pop(oldest).close()

    def stream(
        self, target: str, verb: AnyVerb | str, request: Any = None, *, timeout_s: float | None = None
    ) -> Iterator[Any]:
        """The parts of a streamed reply, then the final reply as the last item. Never sent twice."""
        known = verb_named(verb, target) if isinstance(verb, str) else verb
        deadline = self._deadline(timeout_s)
        items: Generator[Any, None, None] | None = None
        try:
            while True:
                with self._lock:
                    items = items or self._items(target, known, request_for(known, request), deadline)
                    item = next(items, _END)
                if item is _END:
                    return
                yield item
        finally:
            with self._lock:
                if items is not None:
                    items.close()

    def _items(self, target: str, verb: AnyVerb, request: Any, deadline: float) -> Generator[Any, None, None]:
        found = self._find(target, deadline)
        guards = self._guard.of(found.endpoint.address, self._clock.monotonic())
        try:
            with self._guard.attempt(guards, self._clock) as attempt:
                token = self._token(target, found.endpoint, verb)
                for item in self._link(found).stream(verb, request, deadline, token):
                    attempt.answered_at = attempt.answered_at or self._clock.monotonic()
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
        timeout_s: float | None = None,
    ) -> Iterator[Event | Lost]:
        """The events of a service's topics, in order and without gaps, from `since` or from now on.

        A Lost says that some could not be had again: list anew. Ends when none came for `timeout_s` (None: never).
        """
        place = self._place(target)
        if place.events is None:
            raise BadRequest(f"{target} publishes no events")
        if self._context.closed:
            raise Unavailable("the client was closed")
        following = Following(topics, since)
        subscription = BlockingSubscription(self._context, place.events, topics)
        self._subscriptions.add(subscription)
        quiet_since = self._clock.monotonic()
        try:
            while timeout_s is None or self._clock.monotonic() - quiet_since < timeout_s:
                for notice in self._notices(target, following, subscription.receive()):
                    yield notice
                    quiet_since = self._clock.monotonic()
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()

    def _notices(self, target: str, following: Following, frames: list[Buffer] | None) -> Iterator[Event | Lost]:
        if frames is None or len(frames) != 3:
            return
        notices = taken(following, bytes(frames[0]), bytes(frames[1]), bytes(frames[2]))
        while notices:
            notice = notices.pop(0)
            if isinstance(notice, Fill):
                notices += self._fill(target, following, notice)
            else:
                yield notice

    def _fill(self, target: str, following: Following, gap: Fill) -> list[Notice]:
        asked = basic.EventsSince(topic=gap.topic, epoch=gap.since.epoch, seq=gap.since.seq)
        try:
            return following.filled(gap.topic, self.call(target, basic.EVENTS_SINCE, asked, timeout_s=5.0))
        except SnapshotRequired:
            return following.not_filled(gap.topic, for_good=True)
        except TandemError:
            return following.not_filled(gap.topic, for_good=False)

    def _place(self, target: str) -> Place:
        place = self._directory.place(target)
        if place is not None:
            return self._credentials.dressed(place)
        return self._credentials.place(self._ask_registry(target, self._deadline(None)))

    def breakers(self) -> list[BreakerStats]:
        """Every endpoint's breaker as it stands."""
        return self._guard.stats(self._clock.monotonic())

    def close(self) -> None:
        """Disconnect everything; streams and events that are followed end as interrupted."""
        with self._lock:
            for subscription in list(self._subscriptions):
                subscription.close()
            for link in self._links.values():
                link.close()
            self._links.clear()
            self._context.destroy(linger=100)


_END = object()
