from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest

from common.api.basic import Phase
from common.api.supervisor import Process, ProcessChanged, Processes
from common.api.words import Cursor
from common.client import keeping_up
from common.client.aio import AsyncClient
from common.client.following import Event, Lost
from common.errors import Unavailable
from common.supervisor.instructions import PeerHeard, PeerLost
from common.supervisor.peers import Peer
from common.telemetry.system_clock import SystemClock
from tests.common.supervisor.lives import until

AT = Cursor(epoch=1, seq=1)


def process(phase: Phase) -> Process:
    return Process(
        name="a", kind="agent", phase=phase, waiting_for="", pid=0, start_time=0, restarts=0, uptime_s=0.0, rss_bytes=0,
        cpu_pct=0.0, port=0, health_check_port=0, capabilities=[], last_exit="", stderr_tail=[], since="",
    )  # fmt: skip


class Fabric:
    """A peer as a client sees it: the answers to its lists in turn, and an events stream that the test feeds."""

    def __init__(self, *lists: Phase | Exception) -> None:
        self.lists = list(lists)
        self.events_: asyncio.Queue[Event | Lost | Exception] = asyncio.Queue()
        self.told: list[PeerHeard | PeerLost] = []
        self.lacks: dict[str, str] = {}

    async def call(self, target: str, *_: Any, **__: Any) -> Processes:
        assert target == "Supervisor/b"
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, Exception):
            raise answer
        return Processes(host="b", processes=[process(answer)], as_of=AT)

    async def events(
        self, _target: str, topics: list[str], since: dict[str, Cursor], heard: Callable[[], None]
    ) -> AsyncIterator[Event | Lost]:
        assert since == {topics[0]: AT}
        while True:
            notice = await self.events_.get()
            heard()
            if isinstance(notice, Exception):
                raise notice
            yield notice

    def publish(self, phase: Phase) -> None:
        body = msgspec.json.encode(ProcessChanged(process=process(phase), was="starting"))
        self.events_.put_nowait(Event("processes.changed", "a", "", AT, body))

    @property
    def heard(self) -> list[str]:
        return [one.phase if isinstance(one, PeerHeard) else "lost" for one in self.told]


@pytest.fixture
async def follow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[Fabric], None]]:
    monkeypatch.setattr(keeping_up, "AGAIN_S", 0.01)
    tasks: list[asyncio.Task[None]] = []

    def begin(fabric: Fabric) -> None:
        peer = Peer("b", cast("AsyncClient", fabric), SystemClock(), fabric.told.append, fabric.lacks)
        tasks.append(asyncio.create_task(peer.follow()))

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_peer_is_listed_and_then_heard(follow: Callable[[Fabric], None]) -> None:
    fabric = Fabric("starting")
    follow(fabric)
    fabric.events_.put_nowait(Event("processes.changed", "a", "", AT, b"not JSON"))
    fabric.publish("ready")
    await until(lambda: fabric.heard == ["starting", "ready"])


async def test_lost_events_are_made_up_for_by_a_list(follow: Callable[[Fabric], None]) -> None:
    fabric = Fabric("starting", "ready")
    follow(fabric)
    fabric.events_.put_nowait(Lost("processes.changed"))
    await until(lambda: fabric.heard == ["starting", "ready"])


async def test_one_that_falls_silent_is_asked_and_lost_only_when_it_does_not_answer(
    follow: Callable[[Fabric], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping_up, "SILENT_S", 0.02)
    fabric = Fabric("starting", "ready", Unavailable("nobody listens"), Unavailable("nobody listens"), "draining")
    follow(fabric)
    await until(lambda: fabric.heard[:4] == ["starting", "ready", "lost", "draining"])
    assert fabric.lacks == {}


async def test_one_that_was_never_heard_is_lacked_and_not_lost(follow: Callable[[Fabric], None]) -> None:
    fabric = Fabric(Unavailable("nobody listens"))
    follow(fabric)
    await until(lambda: fabric.lacks)
    assert fabric.lacks == {"peer b": "b's supervisor is not heard: nobody listens"}
    assert fabric.told == []


async def test_events_that_cannot_be_had_lose_the_peer_until_it_is_listed_again(
    follow: Callable[[Fabric], None],
) -> None:
    fabric = Fabric("starting", "ready")
    follow(fabric)
    fabric.events_.put_nowait(Unavailable("the link is down"))
    await until(lambda: fabric.heard == ["starting", "lost", "ready"])


async def test_a_bug_while_a_peer_is_followed_ends_nothing_for_good(follow: Callable[[Fabric], None]) -> None:
    fabric = Fabric("starting", ZeroDivisionError(), "ready")
    follow(fabric)
    fabric.events_.put_nowait(Lost("processes.changed"))
    await until(lambda: fabric.heard == ["starting", "lost", "ready"])
    assert fabric.lacks == {}
