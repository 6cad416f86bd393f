"""Capabilities: which one a request asks for, who provides it with which verb, and what the agent is sent.

The old words text, audio and vision are capabilities of the same names. An agent is sent the request's id, its data under the
names the caller used (`data`, `audio_data`, `image_data`) and its `params`, if it has any.

It chooses no agent and sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from common.api.core_orchestrator import Liveness, SubmitRequest
from common.errors import BadRequest
from common.resilience.breaker import State as Breaker
from main_pc.core_orchestrator.registry import Entry
from main_pc.core_orchestrator.request_facts import RequestQueued

MAX_NAME: Final = 128
MAX_CONCURRENCY: Final = 1_000

DEFAULT_CONCURRENCY: Final = {"plain": 1, "native": 4}
"""Requests sent to one agent at a time where its metadata has no `concurrency`.

A plain agent answers in turn: a second request would only wait inside it, where nobody can see, withdraw or redirect it. A
native one answers out of order; a few at once hide the way there, and few are lost if it dies.
"""

MAIN_FIELD: Final = {"text": "data", "audio": "audio_data", "vision": "image_data"}
"""The field that these capabilities get even when it is empty."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An agent that offers a capability, as the dispatcher needs to know it."""

    name: str
    host: str
    liveness: Liveness
    verb: str
    idempotent: bool
    concurrency: int
    breaker: Breaker = Breaker.CLOSED
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Offer:
    """Who provides a capability; where nobody does, `expected` says that an agent which is configured or restarting will."""

    providers: tuple[Provider, ...] = ()
    expected: bool = False


Offers = Callable[[str], Offer]
"""Looks a capability up."""

BreakerOf = Callable[[str], tuple[Breaker, float]]
"""An agent's breaker by the agent's name: its state, and when an open one lets a probe through (monotonic seconds)."""


def capability_of(asked: SubmitRequest) -> str:
    """The capability a request asks for; BadRequest when it names none, two, or one that nobody could register."""
    named = {name for name in (asked.type, asked.capability) if name}
    if len(named) != 1:
        raise BadRequest(f"a request names one capability, in `type` or `capability`; this one names {len(named)}")
    name = named.pop()
    if len(name) > MAX_NAME:
        raise BadRequest(f"a capability's name has at most {MAX_NAME} characters; this one has {len(name)}")
    return name


def payload_of(request: RequestQueued) -> dict[str, Any]:
    """What the agent's verb is called with."""
    fields: dict[str, Any] = {
        "data": request.data,
        "audio_data": request.audio_data,
        "image_data": request.image_data,
        "params": request.params,
    }
    main = MAIN_FIELD.get(request.capability)
    return {"request_id": request.request_id} | {key: value for key, value in fields.items() if value or key == main}


def concurrency_of(entry: Entry) -> int:
    """How many requests the agent takes at a time: its metadata's `concurrency` (1 to 1,000), else by its dress."""
    said = entry.asked.metadata.get("concurrency")
    if isinstance(said, int) and not isinstance(said, bool) and 1 <= said <= MAX_CONCURRENCY:
        return said
    return DEFAULT_CONCURRENCY[entry.asked.dress]


def providers_of(capability: str, entries: Iterable[Entry], breaker_of: BreakerOf) -> tuple[Provider, ...]:
    """The providers of `capability` among `entries`, which all offer it."""
    return tuple(_provider(capability, entry, *breaker_of(entry.asked.agent_name)) for entry in entries)


def _provider(capability: str, entry: Entry, breaker: Breaker, retry_at: float) -> Provider:
    asked = entry.asked
    return Provider(
        name=asked.agent_name,
        host=asked.location,
        liveness=entry.liveness,
        verb=asked.verbs.get(capability, capability),
        idempotent=capability in asked.idempotent,
        concurrency=concurrency_of(entry),
        breaker=breaker,
        retry_at=retry_at,
    )
