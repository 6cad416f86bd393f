"""An engine that answers faster than anybody reads: over a real connection, with a reader that stops and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from common.api.leases import Lease, Owner
from common.api.models import WINDOW_BYTES, AskModel, ModelBytes, PaceModel
from common.errors import Conflict, DeadlineExceeded, Interrupted, NotFound
from common.supervisor.models import asking
from common.supervisor.models.asking import PIECE_BYTES, Asking
from common.supervisor.models.managed import Serving
from common.supervisor.models.pacing import WHOLE_BYTES

PATIENCE_S = 60
HUGE = 64 * 2**20
SHARE = Lease(
    "share", "m", 0, 0, True, 50, "h", 0, "", 7, Owner(), "", 60.0, 60.0, "2025-01-01T00:00:00Z", shares="engine"
)  # fmt: skip


@dataclass
class Flood:
    """An engine that sends HUGE bytes as fast as they are taken."""

    url: str = ""
    asked: int = 0
    sent: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUGE)
        try:
            while self.sent < HUGE:
                writer.write(bytes(PIECE_BYTES))
                self.sent += PIECE_BYTES
                await writer.drain()
        except OSError:
            pass
        finally:
            self.closed.set()
            writer.close()


class Reader:
    """A call whose parts are kept; `streams` as a native caller."""

    streams = True

    def __init__(self) -> None:
        self.got = 0
        self.news = asyncio.Event()

    def part(self, value: ModelBytes) -> None:
        self.got += len(value.data)
        self.news.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.got < count:
                self.news.clear()
                await self.news.wait()


@dataclass
class Desk:
    flood: Flood
    asking: Asking
    live: dict[str, Lease]
    reader: Reader = field(default_factory=Reader)

    def ask(self, reader: str = "r") -> asyncio.Task[ModelBytes]:
        asked = AskModel(lease_id="share", fencing_token=7, method="GET", path="/", reader=reader)
        return asyncio.create_task(self.asking.ask(asked, self.reader))  # type: ignore[arg-type]

    def took(self, total: int) -> None:
        self.asking.pace(PaceModel(lease_id="share", fencing_token=7, reader="r", taken_bytes=total))


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    flood, live = Flood(), {"share": SHARE}

    def find(lease_id: str) -> Lease:
        if lease_id not in live:
            raise NotFound(f"h knows no lease {lease_id}")
        return live[lease_id]

    server = await asyncio.start_server(flood.answer, "127.0.0.1", 0)
    flood.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    made = Asking(find, lambda _: Serving(url=flood.url, upstream="m", pid=1, start_time=1))
    try:
        yield Desk(flood, made, live)
    finally:
        await made.close()
        server.close()


async def test_a_reader_that_stops_stops_the_engine_and_one_that_goes_on_gets_it_all() -> None:
    async with desk() as it:
        answer = it.ask()
        await it.reader.has(WINDOW_BYTES)
        for _ in range(1_000):  # the engine fills what the sockets between take
            await asyncio.sleep(0)
        assert it.reader.got <= WINDOW_BYTES + PIECE_BYTES, "all that is queued for it"
        assert it.flood.sent < HUGE
        while not answer.done():
            it.took(it.reader.got)
            await asyncio.sleep(0.001)
        assert (await answer) == ModelBytes()
        assert it.reader.got == HUGE


async def test_a_reader_that_says_nothing_of_its_progress_gets_so_much() -> None:
    async with desk() as it:
        with pytest.raises(Interrupted, match=f"more than {WHOLE_BYTES} bytes"):
            await it.ask(reader="")
        assert it.reader.got <= WHOLE_BYTES + PIECE_BYTES
        async with asyncio.timeout(PATIENCE_S):
            await it.flood.closed.wait()


async def test_the_end_of_its_share_ends_an_answer_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LOOK_S", 0.01)
    async with desk() as it:
        answer = it.ask()
        await it.reader.has(WINDOW_BYTES)
        it.live.clear()
        with pytest.raises(NotFound):
            await asyncio.wait_for(answer, PATIENCE_S)


async def test_nobody_stands_still_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LOOK_S", 0.01)
    monkeypatch.setattr(asking, "STANDSTILL_S", 0.05)
    async with desk() as it:
        with pytest.raises(DeadlineExceeded, match="took nothing"):
            await asyncio.wait_for(it.ask(), PATIENCE_S)


async def test_a_name_that_reads_an_answer_already_has_the_engine_asked_nothing_more() -> None:
    async with desk() as it:
        answer = it.ask()
        await it.reader.has(1)
        with pytest.raises(Conflict, match="reads another answer"):
            await it.ask()
        assert it.flood.asked == 1
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
