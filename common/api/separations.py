"""What a host did alone: the times in which it could not reach another one, as its supervisor remembers them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from common.api.words import Access, AnyVerb, Count, Message, Seconds, Timestamp, Verb


class ListSeparations(Message, frozen=True):
    """Asks for the newest separations from `peer`, or from any."""

    peer: str = ""
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class Separation(Message, frozen=True):
    """One time without `peer`: why it was lost, and how often each thing was done here meanwhile, in people's words.

    `ended_at` is empty while it lasts; `lasted_s` is by this host's own clock.
    """

    peer: str
    began_at: Timestamp
    ended_at: str
    lasted_s: Seconds
    reason: str
    deeds: dict[str, Count]


class SeparationList(Message, frozen=True):
    """The separations of this host, the newest first."""

    host: str
    separations: list[Separation]


LIST_SEPARATIONS = Verb(
    "list_separations",
    ListSeparations,
    SeparationList,
    Access.READ,
    summary="what this host did while it could not reach another one",
)

VERBS: tuple[AnyVerb, ...] = (LIST_SEPARATIONS,)
