"""ErrorBus on real sockets, in this process or in one of its own, and those who ask it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import zmq

from common.api.error_bus import SERVICE
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.errors import TandemError
from common.service.shell import ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import RecordStore
from pc2.error_bus.book import Limits
from pc2.error_bus.service import ErrorBus
from tests.lab.fabric import free_ports

ROOT = Path(__file__).resolve().parents[3]

T = TypeVar("T")
Dict = dict[str, Any]


def directory(port: int, events_port: int) -> Directory:
    return Directory.parse(f"{SERVICE}={port}:{events_port}@127.0.0.1")


async def until(look: Callable[[], Awaitable[T]], holds: Callable[[T], bool], within_s: float = 60.0) -> T:
    """Look until it holds; what was last seen is in the failure."""
    seen: Any = None
    try:
        async with asyncio.timeout(within_s):
            while not holds(seen := await look()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not so within {within_s} s; last seen: {seen}") from None
    return seen


class Bus:
    """ErrorBus in this process, and a native client of it."""

    def __init__(self, service: ErrorBus, client: AsyncClient) -> None:
        self.service = service
        self.shell = service.shell
        self.client = client

    async def call(self, verb: str, **fields: Any) -> Dict:
        return await self.client.call(SERVICE, verb, fields, timeout_s=60.0)

    async def report(self, error_type: str = "ValueError", message: str = "no room", **fields: Any) -> Dict:
        told = {"agent": "reader", "error_type": error_type, "message": message}
        return await self.call("report_error", **(told | fields))

    async def groups(self, **asked: Any) -> list[Dict]:
        listed: list[Dict] = (await self.call("list_error_groups", **asked))["groups"]
        return listed


@asynccontextmanager
async def bus(store: RecordStore | None = None, limits: Limits | None = None) -> AsyncIterator[Bus]:
    """The service on ports of the system's choice."""
    settings = ShellSettings(SERVICE, "pc2", 0, 0, 0)
    service = ErrorBus(settings, Directory(), store or MemoryStore(), limits)
    await service.open()
    client = open_async_client(None, directory(service.shell.port, service.shell.events_port))
    try:
        yield Bus(service, client)
    finally:
        await client.close()
        await service.close()


def _asked(port: int, message: bytes) -> Dict:
    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.setsockopt(zmq.LINGER, 0)
        asking.setsockopt(zmq.RCVTIMEO, 60_000)
        asking.connect(f"tcp://127.0.0.1:{port}")
        asking.send(message)
        answer: Dict = json.loads(asking.recv())
        return answer


async def ask(port: int, verb: str, /, **fields: Any) -> Dict:
    """What a bare REQ socket gets for one JSON object."""
    return await asyncio.to_thread(_asked, port, json.dumps({"action": verb, **fields}).encode())


@dataclass
class Process:
    """ErrorBus as a process at fixed ports, started as often as it takes."""

    home: Path
    ports: list[int] = field(default_factory=lambda: free_ports(3))
    child: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        port, events_port, health_port = map(str, self.ports)
        told = {"TANDEM_PORT": port, "TANDEM_EVENTS_PORT": events_port, "TANDEM_HEALTH_PORT": health_port}
        return os.environ | told | {"TANDEM_HOME": str(self.home), "TANDEM_HOST": "pc2"}

    def start(self) -> None:
        program = [sys.executable, "-m", "pc2", "error_bus"]
        self.child = subprocess.Popen(program, cwd=ROOT, env=self.environment(), stderr=subprocess.DEVNULL)

    async def until_ready(self, client: AsyncClient, within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    if (await client.call(SERVICE, "health_check", timeout_s=1.0))["ready"]:
                        return
                except TandemError:
                    await asyncio.sleep(0.02)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.child is not None
        self.child.send_signal(number)
        return self.child.wait(timeout=60)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        client = open_async_client(None, directory(self.ports[0], self.ports[1]))
        try:
            yield client
        finally:
            await client.close()
