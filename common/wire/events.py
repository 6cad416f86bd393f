"""Events on the wire, and the rule by which a subscriber knows that it missed one.

Events of a topic are numbered from 1 within an epoch (one life of the publisher); `beat` tells the last number of each topic
once a second, so that the loss of the very last event shows too.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from common.api.words import Cursor
from common.errors import BadRequest


class EventHeader(msgspec.Struct, frozen=True):
    """The header frame of an event; `at` is RFC 3339 UTC, `entity` what it is about."""

    epoch: int
    seq: int
    at: str
    entity: str = ""


_headers = msgspec.json.Decoder(EventHeader)


def decode_header(frame: bytes) -> EventHeader:
    """Read an event's header; BadRequest when it is not one."""
    try:
        return _headers.decode(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"not an event's header: {error}") from error


class Place(Enum):
    """What a number means to a subscriber that stands somewhere."""

    NEXT = "next"
    SEEN = "seen"
    GAP = "gap"
    NEW_EPOCH = "new epoch"


class Gap(NamedTuple):
    """Events of `topic` after `since` are missing up to where the publisher stands."""

    topic: str
    since: Cursor


def place(at: Cursor | None, epoch: int, seq: int) -> Place:
    """Where event (epoch, seq) lies for a subscriber that stands `at` (None: anywhere will do)."""
    if at is None:
        return Place.NEXT
    if epoch != at.epoch:
        return Place.NEW_EPOCH
    if seq <= at.seq:
        return Place.SEEN
    return Place.NEXT if seq == at.seq + 1 else Place.GAP


def behind(at: Cursor, last: Cursor) -> Place:
    """How a subscriber that stands `at` lies to the publisher's last place: SEEN when it has all."""
    if last.epoch != at.epoch:
        return Place.NEW_EPOCH
    return Place.SEEN if last.seq <= at.seq else Place.GAP
