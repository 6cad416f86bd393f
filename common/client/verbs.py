"""What a client knows of a verb before it calls: its types by the catalog, and whether it may be sent again."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from common.api.catalog import SERVICES
from common.api.words import Access, AnyVerb, Empty, Verb
from common.clock import Rng
from common.errors import BadRequest
from common.ids import new_id

MAX_NAME: Final = 128
_SERVICES = {spec.name: spec for spec in SERVICES}
_KEY: Final = "idempotency_key"
_KEYED: Final = {
    verb.name
    for spec in SERVICES
    for verb in spec.verbs
    if not verb.idempotent and _KEY in verb.request.__struct_fields__
}


def verb_named(name: str, target: str) -> AnyVerb:
    """A verb whose request and reply are dicts; whether it is idempotent is known where the catalog has the target's verb."""
    if len(name) > MAX_NAME:
        raise BadRequest(f"no verb has a name of {len(name)} characters; {MAX_NAME} is the most")
    service = target.partition("/")[0]
    return _verb(name, service if service in _SERVICES else "")


@lru_cache(maxsize=4_096)
def _verb(name: str, service: str) -> AnyVerb:
    known = _SERVICES[service].verb(name) if service else None
    fields: Any = dict[str, Any]
    return Verb(
        name,
        fields,
        fields,
        known.access if known is not None else Access.USE,
        idempotent=known.idempotent if known is not None else False,
        part=fields if known is None or known.part is not None else None,
    )


def request_for(verb: AnyVerb, request: Any) -> Any:
    """The request to send where the caller gave none."""
    if request is not None:
        return request
    return Empty() if verb.request is Empty else {}


def keyed(verb: AnyVerb, request: Any, rng: Rng) -> Any:
    """The request, with an idempotency key of its own where it may carry one and has none: all its attempts are then one."""
    if verb.name not in _KEYED or _key_of(request):
        return request
    key = new_id("key", rng)
    return request | {_KEY: key} if isinstance(request, dict) else msgspec.structs.replace(request, idempotency_key=key)


def repeatable(verb: AnyVerb, request: Any) -> bool:
    """Whether sending it twice is the same as once: by the verb, or by an idempotency key in the request."""
    return verb.idempotent or bool(_key_of(request))


def _key_of(request: Any) -> Any:
    return request.get(_KEY) if isinstance(request, dict) else getattr(request, _KEY, "")
