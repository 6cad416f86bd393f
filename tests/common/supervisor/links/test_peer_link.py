"""One link to a peer whose supervisor answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from common.api import links
from common.api.words import Cursor
from common.client.aio import AsyncClient
from common.client.following import Event
from common.config.schema import Peer, Ports, Startup
from common.errors import DeadlineExceeded
from common.supervisor.links import peer_link
from common.supervisor.links.keeper import Keeper
from common.supervisor.links.peer_link import PeerLink
from common.telemetry.system_clock import SystemClock
from tests.common.supervisor.lives import until

AT = Cursor(epoch=1, seq=1)


class Supervisor:
    """The peer's, as a client sees it: each exchange ends with the next of `failures`, and well once they are used up."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.exchanged = 0
        self.fed: asyncio.Queue[Event] = asyncio.Queue()

    async def call(self, *_: Any, **__: Any) -> links.ExchangedKeys:
        if self.exchanged and self.failures:
            raise self.failures.pop(0)
        self.exchanged += 1
        return links.ExchangedKeys(lists=[], as_of=AT)

    async def events(self, *_: Any, heard: Callable[[], None]) -> AsyncIterator[Event]:
        while True:
            heard()  # its beat
            if self.fed.empty():
                await asyncio.sleep(0.01)
            else:
                yield self.fed.get_nowait()

    def change(self) -> None:
        body = msgspec.json.encode(links.KeysChanged(serial=7))
        self.fed.put_nowait(Event(links.KEYS_CHANGED.name, "peer", "", AT, body))


@pytest.mark.parametrize("failure", [DeadlineExceeded("late"), RuntimeError("a bug")])
async def test_a_change_that_could_not_be_fetched_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(peer_link, "PING_DOWN_S", 0.01)
    monkeypatch.setattr(peer_link, "PING_S", 0.02)
    peer = Peer("10.0.0.2", 7091, 7591)
    keeper = Keeper(tmp_path, Startup(1, "own", Ports(1, 2), peers={"peer": peer}), SystemClock())
    link = PeerLink("peer", peer, keeper, SystemClock(), lambda _: None, neighbour=False)
    there = Supervisor(failure, failure)
    task = asyncio.create_task(link.follow(cast("AsyncClient", there)))
    await until(lambda: there.exchanged == 1)
    there.change()
    await until(lambda: there.exchanged == 2)
    assert not there.failures
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
