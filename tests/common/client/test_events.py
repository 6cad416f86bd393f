"""Following a service's events over real sockets, with both faces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.api.words import Cursor
from common.client.following import Event, Lost
from common.errors import BadRequest, StorageUnavailable
from tests.common.client.lab import FACES, AsyncFace, Face, at_port, place_of, registry
from tests.common.service.lab import NOTED, Noted, Service, service, until
from tests.lab.nowhere import alone


@pytest.fixture(params=list(FACES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Follower:
    """Reads a client's events in the background."""

    def __init__(self, face: Face, lab: Service, target: str, since: dict[str, Cursor] | None = None) -> None:
        self.items: list[Event | Lost] = []
        self.live = asyncio.Event()
        self._face, self._lab, self._target, self._since = face, lab, target, since
        self._loop = asyncio.get_running_loop()
        self._stop = False
        work = self._follow() if isinstance(face, AsyncFace) else asyncio.to_thread(self._follow_blocking)
        self.task = asyncio.create_task(work)

    async def _follow(self) -> None:
        assert isinstance(self._face, AsyncFace)
        async for item in self._face.client.events(self._target, ["noted"], self._since, live=self.live.set):
            self.items.append(item)

    def _follow_blocking(self) -> None:
        assert not isinstance(self._face, AsyncFace)
        since = self._since
        while not self._stop:
            for item in self._face.client.events(self._target, ["noted"], since, timeout_s=0.2):
                self.items.append(item)
                if isinstance(item, Event):
                    since = {"noted": item.cursor}
                if self._stop:
                    return

    def told(self) -> list[str]:
        """The keys of the events, in order; None stands for a loss."""
        return [json.loads(item.body)["key"] if isinstance(item, Event) else "LOST" for item in self.items]

    async def have(self, *keys: str) -> None:
        """Wait for these and no others; beats come faster here than once a second."""

        def came() -> bool:
            self._lab.shell.publisher.beat()
            return len(self.items) >= len(keys)

        await until(came)
        assert self.told() == list(keys)

    async def end(self) -> None:
        self._stop = True
        if isinstance(self._face, AsyncFace):
            self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def following(kind: str, lab: Service) -> AsyncIterator[Follower]:
    """A client that follows the service from its first event."""
    face = FACES[kind](alone({"Lab": place_of(lab.shell)}), None)
    follower = Follower(face, lab, "Lab", {"noted": lab.shell.publisher.cursor("noted")})
    try:
        yield follower
    finally:
        await follower.end()
        await face.close()


def publish(lab: Service, *keys: str) -> None:
    for key in keys:
        lab.shell.publisher.publish(NOTED, key, Noted(key=key))


def publish_unheard(lab: Service, *keys: str) -> None:
    """Events that are in the ring and get lost on the way."""
    port, lab.shell.publisher._port = lab.shell.publisher._port, None
    publish(lab, *keys)
    lab.shell.publisher._port = port


async def test_events_come_in_order_with_what_they_are_about(kind: str) -> None:
    async with service() as lab, following(kind, lab) as follower:
        publish(lab, "a", "b", "c")
        await follower.have("a", "b", "c")
        first = follower.items[0]
        assert isinstance(first, Event)
        assert (first.topic, first.entity, first.cursor.seq) == ("noted", "a", 1)


async def test_a_gap_is_filled_from_the_ring(kind: str) -> None:
    async with service() as lab, following(kind, lab) as follower:
        publish(lab, "a")
        await follower.have("a")
        publish_unheard(lab, "b", "c")
        publish(lab, "d")
        await follower.have("a", "b", "c", "d")


async def test_the_loss_of_the_last_event_shows_by_the_beat(kind: str) -> None:
    async with service() as lab, following(kind, lab) as follower:
        publish(lab, "a")
        await follower.have("a")
        publish_unheard(lab, "b")
        lab.shell.publisher.beat()
        await follower.have("a", "b")


async def test_what_the_ring_does_not_hold_any_more_is_lost(kind: str) -> None:
    async with service() as lab, following(kind, lab) as follower:
        publish(lab, "a")
        await follower.have("a")
        publish_unheard(lab, "b", "c")
        lab.shell.publisher._rings["noted"].events.popleft()
        lab.shell.publisher._rings["noted"].events.popleft()
        publish(lab, "d")
        await follower.have("a", "LOST", "d")


async def test_a_new_life_of_the_publisher_is_a_loss(kind: str) -> None:
    async with service() as lab, following(kind, lab) as follower:
        publish(lab, "a")
        await follower.have("a")
        lab.shell.publisher._epoch += 1
        publish(lab, "b")
        await follower.have("a", "LOST", "b")


async def test_a_fill_that_fails_for_now_is_asked_for_again(kind: str) -> None:
    async with service() as lab, following(kind, lab) as follower:
        publish(lab, "a")
        await follower.have("a")
        since, failures = lab.shell.publisher.since, 0

        def unwell(asked: Any) -> Any:
            nonlocal failures
            failures += 1
            if failures <= 4:
                raise StorageUnavailable("not now")
            return since(asked)

        lab.shell.publisher.since = unwell  # type: ignore[method-assign]
        publish_unheard(lab, "b")
        publish(lab, "c")
        await until(lambda: failures >= 4)
        lab.shell.publisher.beat()
        await follower.have("a", "b", "c")


async def test_an_agents_events_are_found_by_its_name(kind: str) -> None:
    async with service() as lab, registry() as names:
        names.put("agent", lab.shell.port, events_port=lab.shell.events_port)
        names.put("mute", lab.shell.port)
        face = FACES[kind](alone({"CoreOrchestrator": place_of(names.shell)}), None)
        follower = Follower(face, lab, "agent", {"noted": lab.shell.publisher.cursor("noted")})
        publish(lab, "a")
        await follower.have("a")
        await follower.end()
        mute = Follower(face, lab, "mute")
        with pytest.raises(BadRequest, match="publishes no events"):
            await mute.task
        await face.close()


async def test_a_service_without_an_events_port_publishes_no_events(kind: str) -> None:
    async with service() as lab:
        face = FACES[kind](alone({"Lab": at_port(lab.shell.port)}), None)
        follower = Follower(face, lab, "Lab")
        with pytest.raises(BadRequest, match="Lab publishes no events"):
            await follower.task
        await face.close()
