from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import cast

import pytest

from common.api.words import Cursor
from common.client import keeping_up
from common.client.aio import AsyncClient
from common.client.following import Event, Lost
from common.client.keeping_up import keep_up
from common.errors import Unavailable

LISTED, PASSING = "leases.changed", "cards.sampled"
AT = Cursor(epoch=1, seq=7)


class Publisher:
    """A publisher as a client follows it: the test feeds the stream, and each following is counted."""

    def __init__(self) -> None:
        self.stream: asyncio.Queue[Event | Lost | Exception | None] = asyncio.Queue()
        self.followed = 0

    async def events(
        self, target: str, topics: tuple[str, ...], since: dict[str, Cursor], heard: Callable[[], None]
    ) -> AsyncIterator[Event | Lost]:
        assert (target, topics, since) == ("hub", (LISTED, PASSING), {LISTED: AT})
        self.followed += 1
        while True:
            notice = await self.stream.get()
            heard()
            if isinstance(notice, Exception):
                raise notice
            if notice is not None:
                yield notice


class Listener:
    """Keeps what it is told; each look ends as `ends` says, the last one for good."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends = list(ends)
        self.told: list[str] = []

    async def look(self) -> Mapping[str, Cursor]:
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if end is not None:
            raise end
        self.told.append("listed")
        return {LISTED: AT}

    def take(self, event: Event) -> None:
        self.told.append(event.entity)

    def away(self, reason: str) -> None:
        self.told.append(reason)

    async def has(self, *told: str) -> None:
        async with asyncio.timeout(60):
            while self.told != list(told):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def kept_up(publisher: Publisher, listener: Listener) -> AsyncIterator[None]:
    keeping = asyncio.create_task(keep_up(cast("AsyncClient", publisher), "hub", (LISTED, PASSING), listener))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping_up, "AGAIN_S", 0.01)


def event(entity: str) -> Event:
    return Event(LISTED, entity, "", AT, b"{}")


async def test_a_publisher_is_listed_once_and_then_heard() -> None:
    publisher, listener = Publisher(), Listener(None)
    async with kept_up(publisher, listener):
        publisher.stream.put_nowait(event("one"))
        publisher.stream.put_nowait(Lost(PASSING))
        publisher.stream.put_nowait(event("two"))
        await listener.has("listed", "one", "two")
    assert publisher.followed == 1


async def test_lost_events_of_what_was_listed_are_made_up_for_by_a_list() -> None:
    publisher, listener = Publisher(), Listener(None)
    async with kept_up(publisher, listener):
        publisher.stream.put_nowait(Lost(LISTED))
        publisher.stream.put_nowait(event("one"))
        await listener.has("listed", "listed", "one")


async def test_a_beat_is_a_sign_of_life_and_silence_is_asked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping_up, "SILENT_S", 1.5)
    publisher, listener = (
        Publisher(),
        Listener(None, Unavailable("nobody listens"), Unavailable("nobody listens"), None),
    )
    async with kept_up(publisher, listener):
        for _ in range(10):
            publisher.stream.put_nowait(None)
            await asyncio.sleep(0.2)
        assert listener.told == ["listed"]
        await listener.has("listed", "nobody listens", "nobody listens", "listed")


async def test_one_whose_events_cannot_be_had_is_away_until_it_is_listed() -> None:
    publisher, listener = Publisher(), Listener(None)
    async with kept_up(publisher, listener):
        publisher.stream.put_nowait(Unavailable("the link is down"))
        await listener.has("listed", "the link is down", "listed")


async def test_a_bug_ends_nothing_for_good() -> None:
    publisher, listener = Publisher(), Listener(ZeroDivisionError(), None)
    async with kept_up(publisher, listener):
        await listener.has("ZeroDivisionError while it was followed", "listed")
