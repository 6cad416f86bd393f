"""The other hosts' agents on this host's loopback, as its supervisor's relay offers them, and calls passed on to a host's own."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from common.api.words import Access, AnyVerb, Cursor, MaybePort, Message, Name, Port, Seconds, Topic, Verb

MAX_FORWARDED_BYTES = 16 * 1024 * 1024
"""A passed-on call, and its answer, have no more bytes than this in all their frames together."""

MAX_FORWARDED_FRAMES = 66
"""A native call's header, its body and as many attachments as a header may name."""

Frames = Annotated[list[bytes], Meta(min_length=1, max_length=MAX_FORWARDED_FRAMES)]


class Relay(Message, frozen=True):
    """Where an agent of `host` is reached on this host's loopback; port 0: that one is not offered."""

    agent_name: Name
    host: str
    port: Port
    events_port: MaybePort = 0


class ListRelays(Message, frozen=True):
    """The agents that this host's relay offers."""


class Relays(Message, frozen=True):
    """The agents of other hosts that `host`'s relay offers on its loopback."""

    host: str
    relays: list[Relay]
    as_of: Cursor


class RelayChanged(Message, frozen=True):
    """An agent is offered here, elsewhere than before, or no more; the entity in the header is its name."""

    change: Literal["opened", "moved", "closed"]
    relay: Relay


class Forward(Message, frozen=True):
    """A message for an agent on this supervisor's loopback, as its caller sent it; its answer is waited for `within_s`."""

    agent_name: Name
    frames: Frames
    within_s: Seconds = 30.0


class Forwarded(Message, frozen=True):
    """The agent's answer, or a part of it, as it came."""

    frames: Frames


LIST_RELAYS = Verb(
    "list_relays", ListRelays, Relays, Access.READ, summary="agents of other hosts on this one's loopback"
)
FORWARD = Verb(
    "forward",
    Forward,
    Forwarded,
    Access.USE,
    idempotent=False,
    part=Forwarded,
    stability="internal",
    summary="pass a message of another host's relay on to an agent on this host's loopback",
)

VERBS: tuple[AnyVerb, ...] = (LIST_RELAYS, FORWARD)

RELAYS_CHANGED = Topic("relays.changed", RelayChanged, "the relay offers an agent, elsewhere, or no more")

TOPICS: tuple[Topic, ...] = (RELAYS_CHANGED,)
