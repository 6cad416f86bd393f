"""ErrorBus on real sockets, in this process or in one of its own, and those who ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from common.api.error_bus import SERVICE
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.service.shell import ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import RecordStore
from pc2.error_bus.book import Limits
from pc2.error_bus.service import ErrorBus
from tests.lab.nowhere import nobody_but

ROOT = Path(__file__).resolve().parents[3]

T = TypeVar("T")
Dict = dict[str, Any]


def directory(port: int, events_port: int) -> Directory:
    return nobody_but(f"{SERVICE}={port}:{events_port}@127.0.0.1")


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
    service = ErrorBus(settings, nobody_but(), store or MemoryStore(), limits)
    await service.open()
    client = open_async_client(None, directory(service.shell.port, service.shell.events_port))
    try:
        yield Bus(service, client)
    finally:
        await client.close()
        await service.close()
