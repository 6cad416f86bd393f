"""A service's events: numbered, kept in a ring for those who missed some, and published after their group's commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from common.api.basic import BEAT, Beat, Events, EventsSince, PastEvent
from common.api.words import Cursor, Message, Topic
from common.errors import NotFound, SnapshotRequired
from common.service.journal import Journal
from common.transport.events import EventPort
from common.wire.codec import encode_json
from common.wire.events import EventHeader

RING_EVENTS: Final = 10_000
RING_BYTES: Final = 4 * 1024 * 1024
"""A topic's ring holds this many events and bytes at most; the older ones go first."""


@dataclass(slots=True)
class _Ring:
    name: bytes
    events: deque[PastEvent] = field(default_factory=lambda: deque(maxlen=RING_EVENTS))
    seq: int = 0
    size: int = 0

    def add(self, event: PastEvent) -> None:
        if len(self.events) == RING_EVENTS:
            self.size -= len(self.events[0].event)
        self.events.append(event)
        self.size += len(event.event)
        while self.size > RING_BYTES and len(self.events) > 1:
            self.size -= len(self.events.popleft().event)


class Publisher:
    """Publishes a service's topics; `epoch` tells one life of the process from the next, `now` gives RFC 3339 UTC."""

    def __init__(self, topics: Iterable[Topic], epoch: int, now: Callable[[], str], journal: Journal) -> None:
        self._epoch = epoch
        self._now = now
        self._journal = journal
        self._port: EventPort | None = None
        self._rings = {topic.name: _Ring(topic.name.encode()) for topic in topics}
        self._beats = 0

    def open(self, port: EventPort | None) -> None:
        """Publish on `port` from now on; None: only the ring is kept."""
        self._port = port

    def publish(self, topic: Topic, entity: str, event: Message, journal: Journal | None = None) -> None:
        """Publish after the open group's commit, at once when there is none; never if it fails.

        `journal` is where the event's facts are written, when that is not the service's first one; a topic keeps to one.
        """
        ring = self._rings[topic.name]
        body = encode_json(event)
        (journal or self._journal).hold(lambda failure: self._emit(ring, entity, body) if failure is None else None)

    def _emit(self, ring: _Ring, entity: str, body: bytes) -> None:
        ring.seq += 1
        at = self._now()
        ring.add(PastEvent(seq=ring.seq, at=at, entity=entity, event=msgspec.Raw(body)))
        if self._port is not None:
            self._port.publish(ring.name, encode_json(EventHeader(self._epoch, ring.seq, at, entity)), body)

    def beat(self) -> None:
        """Repeat the last place of every topic, so that a lost last event shows; called once a second."""
        if self._port is None:
            return
        self._beats += 1
        last = {name: self.cursor(name) for name in self._rings}
        head = EventHeader(self._epoch, self._beats, self._now())
        self._port.publish(BEAT.name.encode(), encode_json(head), encode_json(Beat(last=last)))

    def cursor(self, topic: str) -> Cursor:
        """The last event published on `topic`; what a list verb returns as `as_of`."""
        return Cursor(epoch=self._epoch, seq=self._ring(topic).seq)

    def since(self, asked: EventsSince) -> Events:
        """The events after a cursor; SnapshotRequired when it is of another life or the ring begins later."""
        ring = self._ring(asked.topic)
        if asked.epoch != self._epoch:
            raise SnapshotRequired(f"{asked.topic}: epoch {asked.epoch} has ended; list again and go on from its as_of")
        first = ring.events[0].seq if ring.events else ring.seq + 1
        if asked.seq + 1 < first:
            raise SnapshotRequired(
                f"{asked.topic}: events before {first} are gone; list again and go on from its as_of"
            )
        found: list[PastEvent] = []
        for event in reversed(ring.events):
            if event.seq <= asked.seq:
                break
            found.append(event)
        found.reverse()
        return Events(events=[_readable(event) for event in found[: asked.limit]], as_of=self.cursor(asked.topic))

    def _ring(self, topic: str) -> _Ring:
        ring = self._rings.get(topic)
        if ring is None:
            raise NotFound(f"no topic {topic!r} here; there are {', '.join(sorted(self._rings))}")
        return ring


def _readable(event: PastEvent) -> PastEvent:
    """An event of the ring, which keeps JSON, as any codec can carry it."""
    return msgspec.structs.replace(event, event=msgspec.json.decode(event.event))
