"""Following a publisher's topics without gaps, sans IO: what a subscriber delivers, and what it must ask for again.

A gap seen by number or by beat is filled with `events_since`; events that come meanwhile wait their turn. What cannot be filled
(the ring begins later, or the publisher began a new life) is delivered as Lost: list again, and go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from common.api.basic import BEAT, Beat, Events
from common.api.words import Cursor
from common.errors import BadRequest
from common.wire.codec import encode_json
from common.wire.events import EventHeader, Place, behind, decode_header, place


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `body` is JSON, to be decoded to the topic's type."""

    topic: str
    entity: str
    at: str
    cursor: Cursor
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """Events of `topic` are lost for good: list what it is about again."""

    topic: str


@dataclass(frozen=True, slots=True)
class Fill:
    """Ask the publisher for the events of `topic` after `since`."""

    topic: str
    since: Cursor


Notice = Event | Lost | Fill

_beats = msgspec.json.Decoder(Beat)


class Following:
    """Where a subscriber stands in each topic it follows."""

    def __init__(self, topics: Iterable[str], since: dict[str, Cursor] | None = None) -> None:
        self._at: dict[str, Cursor | None] = {topic: (since or {}).get(topic) for topic in topics}
        self._filling: dict[str, list[Event]] = {}
        self._told: dict[str, Cursor] = {}

    def event(self, topic: str, header: EventHeader, body: bytes) -> list[Notice]:
        """An event came."""
        if topic not in self._at:
            return []
        return self._step(Event(topic, header.entity, header.at, Cursor(epoch=header.epoch, seq=header.seq), body))

    def _step(self, event: Event) -> list[Notice]:
        if event.topic in self._filling:
            self._filling[event.topic].append(event)
            return []
        at = self._at[event.topic]
        where = place(at, event.cursor.epoch, event.cursor.seq)
        if where is Place.SEEN:
            return []
        if where is Place.NEXT:
            self._at[event.topic] = event.cursor
            return [event]
        if where is Place.NEW_EPOCH or at is None:
            self._at[event.topic] = event.cursor
            return [Lost(event.topic), event]
        self._filling[event.topic] = [event]
        return [Fill(event.topic, at)]

    def beat(self, body: bytes) -> list[Notice]:
        """The publisher told where each topic stands."""
        notices: list[Notice] = []
        for topic, last in _beats.decode(body).last.items():
            if topic in self._at and topic not in self._filling:
                notices += self._compare(topic, last)
        return notices

    def _compare(self, topic: str, last: Cursor) -> list[Notice]:
        at = self._at[topic]
        if at is None:
            self._at[topic] = last
            return []
        where = behind(at, last)
        if where is Place.SEEN:
            return []
        if where is Place.NEW_EPOCH:
            self._at[topic] = last
            return [Lost(topic)]
        self._filling[topic], self._told[topic] = [], last
        return [Fill(topic, at)]

    def filled(self, topic: str, events: Events) -> list[Notice]:
        """The answer to a Fill; when it brings nothing, what is missing is lost."""
        notices: list[Notice] = []
        for past in events.events:
            cursor = Cursor(epoch=events.as_of.epoch, seq=past.seq)
            if place(self._at[topic], cursor.epoch, cursor.seq) is not Place.SEEN:
                self._at[topic] = cursor
                notices.append(Event(topic, past.entity, past.at, cursor, encode_json(past.event)))
        if not notices:
            return self.not_filled(topic, for_good=True)
        waiting = self._filling.pop(topic)
        at = self._at[topic]
        if at is not None and not waiting and behind(at, events.as_of) is Place.GAP:
            self._filling[topic], self._told[topic] = [], events.as_of
            return [*notices, Fill(topic, at)]
        for event in waiting:
            notices += self._step(event)
        return notices

    def not_filled(self, topic: str, *, for_good: bool) -> list[Notice]:
        """A Fill failed: for good (the ring begins later), or for now (the next beat asks again)."""
        waiting = self._filling.pop(topic)
        if not for_good:
            return []
        self._at[topic] = None if waiting else self._told[topic]
        notices: list[Notice] = [Lost(topic)]
        for event in waiting:
            notices += self._step(event)
        return notices


def taken(following: Following, topic: bytes, header: bytes, body: bytes) -> list[Notice]:
    """Take an event's three frames in; what is no event is passed over, and shows as a gap if it was one."""
    try:
        name = topic.decode()
        return following.beat(body) if name == BEAT.name else following.event(name, decode_header(header), body)
    except (BadRequest, msgspec.MsgspecError, UnicodeError, RecursionError):
        return []
