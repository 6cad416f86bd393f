"""Both faces of the client behind one interface, a registry made for tests, and servers that know nothing of Tandem."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import zmq
import zmq.asyncio

from common.api import core_orchestrator as core
from common.api.basic import BreakerStats
from common.client.aio import AsyncClient
from common.client.directory import Directory, Place
from common.client.settings import ClientSettings
from common.client.sync import Client
from common.errors import NotFound
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.telemetry.system_clock import SystemClock
from common.transport.sockets import Endpoint


class AsyncFace:
    """The asynchronous face."""

    def __init__(self, directory: Directory, settings: ClientSettings | None) -> None:
        self.client = AsyncClient(directory, SystemClock(), random.Random(1), settings)

    async def call(self, target: str, verb: Any, request: Any = None, **how: Any) -> Any:
        return await self.client.call(target, verb, request, **how)

    async def stream(self, target: str, verb: Any, request: Any = None, take: int = 1_000, **how: Any) -> list[Any]:
        items = []
        async for item in self.client.stream(target, verb, request, **how):
            items.append(item)
            if len(items) == take:
                break
        return items

    def breakers(self) -> list[BreakerStats]:
        return self.client.breakers()

    async def close(self) -> None:
        await self.client.close()


class SyncFace:
    """The synchronous face, called from threads."""

    def __init__(self, directory: Directory, settings: ClientSettings | None) -> None:
        self.client = Client(directory, SystemClock(), random.Random(1), settings)

    async def call(self, target: str, verb: Any, request: Any = None, **how: Any) -> Any:
        return await asyncio.to_thread(self.client.call, target, verb, request, **how)

    async def stream(self, target: str, verb: Any, request: Any = None, take: int = 1_000, **how: Any) -> list[Any]:
        def collect() -> list[Any]:
            items = []
            for item in self.client.stream(target, verb, request, **how):
                items.append(item)
                if len(items) == take:
                    break
            return items

        return await asyncio.to_thread(collect)

    def breakers(self) -> list[BreakerStats]:
        return self.client.breakers()

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


Face = AsyncFace | SyncFace
FACES: dict[str, type[AsyncFace] | type[SyncFace]] = {"async": AsyncFace, "sync": SyncFace}


def place_of(shell: Shell) -> Place:
    """Where a shell stands."""
    return Place(Endpoint.tcp("127.0.0.1", shell.port), Endpoint.tcp("127.0.0.1", shell.events_port))


def at_port(port: int, events_port: int = 0) -> Place:
    """A place on this host."""
    return Place(Endpoint.tcp("127.0.0.1", port), Endpoint.tcp("127.0.0.1", events_port) if events_port else None)


SHARED = [field for field in core.Endpoint.__struct_fields__ if field in core.Agent.__struct_fields__]


class Registry:
    """As much of CoreOrchestrator as a client needs."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.agents: dict[str, core.Endpoint] = {}
        self.asked: list[str] = []
        self.curve: list[bool] = []
        shell.handle(core.GET_AGENT_ENDPOINT, self.endpoint)

    def endpoint(self, request: core.LocateAgent, call: Call) -> core.Endpoint:
        self.asked.append(request.agent_name)
        self.curve.append(request.curve)
        if request.agent_name not in self.agents:
            raise NotFound(f"no agent {request.agent_name!r}")
        return self.agents[request.agent_name]

    def put(
        self, name: str, port: int, dress: core.Dress = "native", events_port: int = 0, server_key: str = ""
    ) -> None:
        """The agent is there from now on, without a word to anyone."""
        self.agents[name] = core.Endpoint(
            agent_name=name,
            host="127.0.0.1",
            port=port,
            health_check_port=0,
            events_port=events_port,
            capabilities=[],
            liveness="alive",
            dress=dress,
            location="mainpc",
            server_key=server_key,
        )

    def tell(self, name: str) -> None:
        """An event says that the agent changed."""
        agent = core.Agent(
            **{field: getattr(self.agents[name], field) for field in SHARED},
            verbs={},
            idempotent=[],
            metadata={},
            boot="",
            pid=0,
            ttl_s=None,
            heard_s=0.0,
            in_flight=0,
            registered_at="",
        )
        self.shell.publisher.publish(core.AGENTS_CHANGED, name, core.AgentChanged(change="moved", agent=agent))


@asynccontextmanager
async def registry() -> AsyncIterator[Registry]:
    """A registry that stands."""
    shell = Shell(ShellSettings(core.SERVICE, "mainpc", 0, 0), (core.AGENTS_CHANGED,))
    made = Registry(shell)
    await shell.open()
    try:
        yield made
    finally:
        await shell.close(drain_s=0)


@asynccontextmanager
async def router(
    answer: Callable[[list[bytes]], list[bytes] | None], port: int = 0, times: int = 1
) -> AsyncIterator[int]:
    """A ROUTER that answers each message with what `answer` says, or not at all, so many `times`; yields its port."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    number = port or socket.bind_to_random_port("tcp://127.0.0.1")
    if port:
        socket.bind(f"tcp://127.0.0.1:{port}")

    async def serve() -> None:
        while True:
            route, *frames = await socket.recv_multipart()
            reply = answer(frames)
            for _ in range(times if reply is not None else 0):
                await socket.send_multipart([route, *(reply or ())])

    task = asyncio.create_task(serve())
    try:
        yield number
    finally:
        task.cancel()
        socket.close()
        context.term()


@asynccontextmanager
async def rep(
    answer: Callable[[dict[str, Any]], bytes], delays: list[asyncio.Event] | None = None
) -> AsyncIterator[int]:
    """A plain agent: a bare REP that answers one JSON object with what `answer` says, each after its event in `delays`."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.REP)
    socket.setsockopt(zmq.LINGER, 0)
    number = socket.bind_to_random_port("tcp://127.0.0.1")

    async def serve() -> None:
        while True:
            request = json.loads(await socket.recv())
            if delays:
                await delays.pop(0).wait()
            await socket.send(answer(request))

    task = asyncio.create_task(serve())
    try:
        yield number
    finally:
        task.cancel()
        socket.close()
        context.term()
