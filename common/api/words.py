"""What every service's vocabulary is made of: bounded field types, and the descriptions of a verb and of a topic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from common.ids import MAX_WIRE_INT

Count = Annotated[int, Meta(ge=0, le=MAX_WIRE_INT)]
Bytes = Annotated[int, Meta(ge=0, le=MAX_WIRE_INT, description="bytes")]
Port = Annotated[int, Meta(ge=1, le=65535)]
MaybePort = Annotated[int, Meta(ge=0, le=65535, description="0: none")]
Priority = Annotated[int, Meta(ge=0, le=100, description="higher first")]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000, description="seconds")]
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/@ -]*\Z",
        description="letters, digits, spaces and _.:/@- after a letter, a digit or _",
    ),
]
Host = Annotated[str, Meta(min_length=1, max_length=253)]
Id = Annotated[str, Meta(min_length=1, max_length=128)]
Key = Annotated[str, Meta(max_length=256, description="an idempotency key; empty: none")]
Text = Annotated[str, Meta(max_length=16 * 1024 * 1024)]
Timestamp = Annotated[str, Meta(description="RFC 3339, UTC")]
Blob = memoryview
"""Binary field: base64 text in JSON, bin in msgpack, or an attachment named in the header, never copied."""

DEFAULT_PRIORITY = 50


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A request, reply or event as it crosses the wire; unknown fields are ignored, known ones are checked."""


class Empty(Message, frozen=True):
    """A request that asks nothing more, or a reply that says no more than success."""


class Access(StrEnum):
    """What a caller must be allowed to do for a verb to be served."""

    READ = "read"
    USE = "use"
    CONTROL = "control"


class Cursor(Message, frozen=True):
    """A place in one topic's stream of events: the publisher's life and the number of the last event."""

    epoch: Count
    seq: Count


Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)


@dataclass(frozen=True, slots=True, eq=False)
class Verb(Generic[Req, Rep]):
    """One verb of a service: its types, who may call it, and whether sending it twice is the same as once.

    A verb is itself and no other (compared by identity): tables on the hot path are keyed by it.

    `idempotent` verbs may be retried by any client; others only with an idempotency key, where the request has one.
    `part` is the type of the streamed replies that may precede the final one; None where there is only the final one.
    """

    name: str
    request: type[Req]
    reply: type[Rep]
    access: Access
    idempotent: bool = True
    part: type[Message] | None = None
    stability: Literal["stable", "experimental", "internal"] = "stable"
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of a service's PUB port; no topic's name is the beginning of another's."""

    name: str
    event: type[Message]
    summary: str = ""


AnyVerb = Verb[Any, Any]
