"""Simulated cards, one stand-in of each program for a whole file, and servers that answer whatever bytes a test likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from common.config.models import EngineKind
from common.engines.engine import Engine
from common.engines.opening import open_engine
from common.gpu.simulated import GIB, SimulatedCards, ensure_cards
from tests.lab.engines import Kind, ModelServer, start

Answering = Callable[[bytes], Awaitable[str]]
Opened = Callable[..., Engine]


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one simulated card of 24 GiB."""
    folder = tmp_path_factory.mktemp("mainpc") / "cards"
    ensure_cards(folder, "mainpc", (24 * GIB,))
    return folder


@pytest.fixture
def used(cards: Path) -> Callable[[], int]:
    """What the card says is used, which is what counts."""
    return lambda: SimulatedCards("mainpc", cards).sample(0.0)[0].used_bytes


@pytest.fixture(scope="module")
def shared(cards: Path) -> Iterator[Callable[..., ModelServer]]:
    """Starts a stand-in that lives as long as the file's tests."""
    started: list[ModelServer] = []

    def begin(kind: Kind, *arguments: str, **settings: object) -> ModelServer:
        server = start(kind, *arguments, cards=cards, **settings)  # type: ignore[arg-type]
        started.append(server)
        return server

    yield begin
    for server in started:
        server.stop()


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens adapters, and closes them at the end."""
    async with AsyncExitStack() as stack:

        def opening(kind: EngineKind, url: str, *more: str) -> Engine:
            engine = open_engine(kind, url, *more)
            stack.push_async_callback(engine.close)
            return engine

        yield opening


@pytest.fixture
async def answering() -> AsyncIterator[Answering]:
    """A server that reads a request's head and sends these bytes, whatever was asked; its URL."""
    async with AsyncExitStack() as stack:

        async def begin(content: bytes) -> str:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(content)
                await writer.drain()
                writer.close()

            server = await stack.enter_async_context(await asyncio.start_server(serve, "127.0.0.1", 0))
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield begin


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer with that body."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def until(met: Callable[[], bool]) -> None:
    """Returns once it is so; the test's own time-out is the bound."""
    while not met():
        await asyncio.sleep(0.02)
