from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.api.basic import Events, EventsSince
from common.api.words import Cursor
from common.errors import NotFound, SnapshotRequired, StorageUnavailable
from common.service import publisher as module
from common.service.journal import Journal
from common.service.publisher import Publisher
from common.store.memory import MemoryStore
from common.store.protocol import Change
from tests.common.service.lab import NOTED, OTHER, Noted


def made() -> tuple[Publisher, Journal, MemoryStore]:
    store = MemoryStore()
    journal = Journal(store)
    return Publisher((NOTED, OTHER), 7, lambda: "2026-01-01T00:00:00.000Z", journal), journal, store


def since(publisher: Publisher, seq: int, limit: int = 1_000, epoch: int = 7, topic: str = "noted") -> Events:
    return publisher.since(EventsSince(topic=topic, epoch=epoch, seq=seq, limit=limit))


def numbers(events: Events) -> list[int]:
    return [event.seq for event in events.events]


async def test_events_are_numbered_from_one_and_had_again_from_the_ring() -> None:
    publisher, _, _ = made()
    assert publisher.cursor("noted") == Cursor(epoch=7, seq=0)
    for key in "abc":
        publisher.publish(NOTED, key, Noted(key=key))
    found = since(publisher, 1)
    assert [(event.seq, event.entity, event.event) for event in found.events] == [
        (2, "b", {"key": "b"}),
        (3, "c", {"key": "c"}),
    ]
    assert found.as_of == Cursor(epoch=7, seq=3)
    assert numbers(since(publisher, 3)) == []
    assert numbers(since(publisher, 99)) == []
    assert numbers(since(publisher, 0, limit=2)) == [1, 2]
    assert numbers(since(publisher, 0, topic="other")) == []


async def test_another_life_or_a_ring_that_begins_later_asks_for_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, _, _ = made()
    for number in range(module.RING_EVENTS + 5):
        publisher.publish(NOTED, str(number), Noted(key="k"))
    assert numbers(since(publisher, 5, limit=1)) == [6]
    with pytest.raises(SnapshotRequired, match="before 6 are gone"):
        since(publisher, 4)
    with pytest.raises(SnapshotRequired, match="epoch 6 has ended"):
        since(publisher, 4, epoch=6)


async def test_an_unknown_topic_is_not_found_and_the_known_ones_are_named() -> None:
    publisher, _, _ = made()
    with pytest.raises(NotFound, match="there are noted, other"):
        since(publisher, 0, topic="nothing")


async def test_the_ring_is_bounded_in_bytes_and_keeps_at_least_the_last_event() -> None:
    publisher, _, _ = made()
    for number in range(4):
        publisher.publish(NOTED, str(number), Noted(key="x" * (module.RING_BYTES // 2)))
    assert numbers(since(publisher, 3)) == [4]
    with pytest.raises(SnapshotRequired):
        since(publisher, 1)
    publisher.publish(NOTED, "big", Noted(key="x" * (module.RING_BYTES * 2)))
    assert numbers(since(publisher, 4)) == [5]


async def test_events_wait_for_their_groups_commit_and_never_leave_if_it_fails() -> None:
    publisher, journal, store = made()
    journal.write([Change("t", "a", b"1")])
    publisher.publish(NOTED, "a", Noted(key="a"))
    assert publisher.cursor("noted").seq == 0
    journal.commit()
    assert publisher.cursor("noted").seq == 1
    store.failure = StorageUnavailable("full")
    journal.write([Change("t", "b", b"1")])
    publisher.publish(NOTED, "b", Noted(key="b"))
    journal.commit()
    assert publisher.cursor("noted").seq == 1


async def test_without_a_port_only_the_ring_is_kept() -> None:
    publisher, _, _ = made()
    publisher.open(None)
    publisher.publish(NOTED, "a", Noted(key="a"))
    publisher.beat()
    assert publisher.cursor("noted").seq == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=60), st.integers(0, 70), st.integers(1, 70))
async def test_what_the_ring_answers_is_what_was_published_or_a_snapshot_is_asked_for(
    sizes: list[int], after: int, limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RING_BYTES", 2_000)
        publisher, _, _ = made()
        for size in sizes:
            publisher.publish(NOTED, "e", Noted(key="x" * size))
        try:
            found = since(publisher, after, limit)
        except SnapshotRequired:
            assert after < len(sizes)
        else:
            assert numbers(found) == list(range(after + 1, len(sizes) + 1))[:limit]
            assert found.as_of.seq == len(sizes)
