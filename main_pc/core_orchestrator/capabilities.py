"""Capabilities: which one a request asks for, who provides it with which verb, and what the agent is sent.

The old words text, audio and vision are capabilities of the same names. An agent is sent the request's id, its data under the
names the caller used (`data`, `audio_data`, `image_data`) and its `params`, as far as they came: an empty text that the caller
gave is one.

It chooses no agent and sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from common.api.core_orchestrator import SubmitRequest
from common.dispatch.provider import BreakerOf, Provider, provider_of
from common.errors import BadRequest
from main_pc.core_orchestrator.registry import Entry
from main_pc.core_orchestrator.request_facts import RequestQueued

MAX_NAME: Final = 128

IN_ANY_CASE: Final[dict[str, dict[str, Any]]] = {
    "text": {"data": ""},
    "audio": {"audio_data": b""},
    "vision": {"image_data": b""},
}
"""What agents of these capabilities are sent even where the caller left it out."""


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
    told = {
        "data": request.data,
        "audio_data": request.audio_data or None,
        "image_data": request.image_data or None,
        "params": request.params,
    }
    fields = {name: value for name, value in told.items() if value is not None}
    return {"request_id": request.request_id} | IN_ANY_CASE.get(request.capability, {}) | fields


def providers_of(capability: str, entries: Iterable[Entry], breaker_of: BreakerOf) -> tuple[Provider, ...]:
    """The providers of `capability` among `entries`, which all offer it."""
    return tuple(
        provider_of(capability, entry.asked, entry.liveness, *breaker_of(entry.asked.agent_name)) for entry in entries
    )
