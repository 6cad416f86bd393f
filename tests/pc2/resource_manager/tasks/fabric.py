"""The task queue on real sockets: CoreOrchestrator, ResourceManager and agents in one process, on free ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from common.api.resource_manager import SERVICE
from common.api.words import Access, Verb
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import RecordStore
from pc2.resource_manager.service import ResourceManager
from pc2.resource_manager.tasks.limits import Limits
from tests.lab.service_process import until
from tests.main_pc.core_orchestrator.fabric import Core, core, directory
from tests.pc2.resource_manager.fabric import Host

__all__ = ["Core", "Gate", "Queue", "core", "queue", "task_agent", "until"]

Dict = dict[str, Any]
Handler = Callable[[Dict, Call], Awaitable[Dict]]
QUICK = Limits(backoff_s=0.02, backoff_max_s=0.05, refused_max_s=0.05, progress_s=0.0)


class Queue:
    """ResourceManager in this process, and a native client of it."""

    def __init__(self, service: ResourceManager, client: AsyncClient) -> None:
        self.service = service
        self.shell = service.shell
        self.client = client

    async def call(self, verb: str, **fields: Any) -> Dict:
        return await self.client.call(SERVICE, verb, fields, timeout_s=60.0)

    async def submit(self, capability: str, payload: Any = None, **fields: Any) -> str:
        answer = await self.call("submit_task", capability=capability, payload=payload, **fields)
        return str(answer["task_id"])

    async def get(self, task_id: str) -> Dict:
        return await self.call("get_task", task_id=task_id)

    async def until_state(self, task_id: str, *states: str, within_s: float = 60.0) -> Dict:
        return await until(lambda: self.get(task_id), lambda status: status["state"] in states, within_s)


def places_of(beside: Core | None, hosts: Sequence[Host] = (), *more: tuple[str, tuple[int, int]]) -> Directory:
    """Where CoreOrchestrator is, or nowhere, and the supervisors of these hosts."""
    core_at = (1, 1) if beside is None else (beside.shell.port, beside.shell.events_port)
    supervisors = {f"Supervisor__{host.name}": (host.cable.port, host.shell.events_port) for host in hosts}
    return directory(CoreOrchestrator=core_at, **supervisors, **dict(more))


@asynccontextmanager
async def queue(
    beside: Core | None,
    task_store: RecordStore | None = None,
    limits: Limits = QUICK,
    hosts: Sequence[Host] = (),
    *more: tuple[str, tuple[int, int]],
) -> AsyncIterator[Queue]:
    """ResourceManager, which finds CoreOrchestrator `beside` it or nowhere, these hosts, and `more` by their ports."""
    places = places_of(beside, hosts, *more)
    settings = ShellSettings(SERVICE, "pc2", 0, 0, 0)
    service = ResourceManager(settings, places, MemoryStore(), task_store or MemoryStore(), task_limits=limits)
    await service.open()
    client = open_async_client(None, directory(ResourceManager=(service.shell.port, service.shell.events_port)))
    try:
        yield Queue(service, client)
    finally:
        await client.close()
        await service.close()


@asynccontextmanager
async def task_agent(name: str, **handlers: Handler) -> AsyncIterator[Shell]:
    """A native agent: a shell with one verb per handler, which takes whatever fields it is sent."""
    shell = Shell(ShellSettings(name, "mainpc", 0))
    fields: Any = dict[str, Any]
    for verb, handler in handlers.items():
        shell.handle(Verb(verb, fields, fields, Access.USE, part=fields), handler)
    await shell.open()
    try:
        yield shell
    finally:
        await shell.close(drain_s=0)


class Gate:
    """Where an agent's work waits until the test lets it pass; what was begun and what was withdrawn is counted."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun: list[Dict] = []
        self.withdrawn = 0

    async def until_begun(self, within_s: float = 60.0) -> None:
        """Wait until work is in an agent's hands: a task is `running` a moment before."""
        async with asyncio.timeout(within_s):
            while not self.begun:
                await asyncio.sleep(0.005)

    async def work(self, asked: Dict, _call: Call) -> Dict:
        self.begun.append(asked)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        return {"result": asked.get("text", "")}
