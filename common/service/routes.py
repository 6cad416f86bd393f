"""The route table: which verb is served by which handler, with its decoder and its meter. Data that `info` prints.

A handler is `f(request, call) -> reply`, plain or `async`. A plain one runs inline and must not wait; an async one becomes a
task that its caller's deadline or withdrawal cancels.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from common.api.basic import TopicInfo, VerbInfo
from common.api.words import AnyVerb, Message, Topic, Verb
from common.errors import Conflict, UnknownVerb
from common.service.call import Call
from common.service.journal import Journal
from common.telemetry.meters import VerbMeter
from common.wire.codec import BodyDecoder

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)

Handler = Callable[[Any, Call], Any]
TypedHandler = Callable[[Req, Call], Rep | Awaitable[Rep]]


@dataclass(frozen=True, slots=True)
class Route:
    """One verb served."""

    verb: AnyVerb
    handler: Handler
    decoder: BodyDecoder[Any]
    meter: VerbMeter
    waits: bool
    journal: Journal | None


class Routes:
    """The verbs of one process; `meter` makes the meter of a verb when its route is added."""

    def __init__(self, meter: Callable[[str], VerbMeter]) -> None:
        self._meter = meter
        self._routes: dict[str, Route] = {}

    def add(self, verb: Verb[Req, Rep], handler: TypedHandler[Req, Rep], journal: Journal | None = None) -> None:
        """Serve `verb`; its answers wait for the open group of `journal`, if it has one. Conflict when it is served already."""
        if verb.name in self._routes:
            raise Conflict(f"two handlers for verb {verb.name!r}; a verb has one")
        waits = inspect.iscoroutinefunction(handler)
        decoder, meter = BodyDecoder(verb.request), self._meter(verb.name)
        self._routes[verb.name] = Route(verb, handler, decoder, meter, waits, journal)

    def get(self, name: str) -> Route | None:
        """The route of a verb."""
        return self._routes.get(name)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())

    def unknown(self, name: str) -> UnknownVerb:
        """The error for a verb that is not served, with the closest one that is."""
        import difflib

        close = difflib.get_close_matches(name, self._routes, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`info` lists the verbs"
        return UnknownVerb(f"no verb {name[:128]!r} here; {hint}", did_you_mean=close[0] if close else "")


def verb_info(verb: AnyVerb) -> VerbInfo:
    """A verb as `info` shows it."""
    return VerbInfo(
        name=verb.name,
        access=verb.access.value,
        idempotent=verb.idempotent,
        streams=verb.part is not None,
        stability=verb.stability,
        summary=verb.summary,
        request=msgspec.json.schema(verb.request),
        reply=msgspec.json.schema(verb.reply),
    )


def topics_info(topics: Iterable[Topic]) -> list[TopicInfo]:
    """The topics as `info` shows them."""
    return [TopicInfo(name=t.name, summary=t.summary, event=msgspec.json.schema(t.event)) for t in topics]
