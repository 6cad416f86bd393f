"""Agents that run on the test's loop, a registry and a lease arbiter made for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.agent.agent import Agent
from common.api import core_orchestrator as core
from common.api import leases, resource_manager
from common.api.words import Empty
from common.client.directory import SERVICES_VARIABLE
from common.errors import NoCapacity, NotFound, StaleFence
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from tests.lab.nowhere import only


class Registry:
    """As much of CoreOrchestrator as an agent needs; `boot` changes when it begins a new life."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.boot = "boot-1"
        self.agents: dict[str, core.RegisterAgent] = {}
        self.registrations = 0
        self.beats: list[core.Heartbeat] = []
        shell.handle(core.REGISTER_AGENT, self.register)
        shell.handle(core.HEARTBEAT, self.heartbeat)
        shell.handle(core.DEREGISTER_AGENT, self.deregister)

    def register(self, request: core.RegisterAgent, call: Call) -> core.Registered:
        self.registrations += 1
        self.agents[request.agent_name] = request
        return core.Registered(boot=self.boot)

    def heartbeat(self, request: core.Heartbeat, call: Call) -> core.Registered:
        if request.agent_name not in self.agents:
            raise NotFound("no such agent")
        self.beats.append(request)
        return core.Registered(boot=self.boot)

    def deregister(self, request: core.AgentName, call: Call) -> Empty:
        self.agents.pop(request.agent_name, None)
        return Empty()


class Arbiter:
    """Grants, renews and takes back leases, as ResourceManager and a supervisor do."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.held: dict[str, int] = {}
        self.asked: list[leases.AcquireLease] = []
        self.renewals = 0
        self.marks: list[leases.MarkLease] = []
        self.full = False
        self.unwell = False
        shell.handle(leases.ACQUIRE_LEASE, self.acquire)
        shell.handle(leases.RENEW_LEASE, self.renew)
        shell.handle(leases.RELEASE_LEASE, self.release)
        shell.handle(leases.MARK_LEASE, self.mark)

    def acquire(self, request: leases.AcquireLease, call: Call) -> leases.LeaseGranted:
        self.asked.append(request)
        if self.full:
            raise NoCapacity("10 GiB needed, 3 free", need=10, free=3)
        lease_id = f"lease-{len(self.asked)}"
        self.held[lease_id] = 7
        return leases.LeaseGranted(
            lease_id=lease_id,
            host="mainpc",
            card=0,
            card_uuid="GPU-0",
            fencing_token=7,
            expires_in_s=request.ttl_s,
            bytes=request.bytes,
        )

    def renew(self, request: leases.RenewLease, call: Call) -> leases.LeaseRenewed:
        self.renewals += 1
        if self.unwell:
            raise NoCapacity("a hiccup")
        if self.held.get(request.lease_id) != request.fencing_token:
            raise StaleFence("granted anew")
        return leases.LeaseRenewed(expires_in_s=1.0)

    def mark(self, request: leases.MarkLease, call: Call) -> leases.LeaseMarked:
        if self.unwell:
            raise NoCapacity("a hiccup")
        if self.held.get(request.lease_id) != request.fencing_token:
            raise StaleFence("expiring")
        self.marks.append(request)
        return leases.LeaseMarked(state="held", in_use=bool(request.in_use), loaded=bool(request.loaded))

    def in_use(self, lease_id: str) -> bool:
        """As the last mark said."""
        return next((bool(mark.in_use) for mark in reversed(self.marks) if mark.lease_id == lease_id), True)

    def release(self, request: leases.ReleaseLease, call: Call) -> Empty:
        if self.held.pop(request.lease_id, None) != request.fencing_token:
            raise StaleFence("granted anew")
        return Empty()


@asynccontextmanager
async def standing(name: str, port: int = 0) -> AsyncIterator[Shell]:
    """A shell under a service's name."""
    shell = Shell(ShellSettings(name, "mainpc", port))
    await shell.open()
    try:
        yield shell
    finally:
        await shell.close(drain_s=0)


class Fabric:
    """The well-known services an agent meets, each present or absent."""

    def __init__(self, registry: Registry, supervisor: Arbiter, manager: Arbiter | None) -> None:
        self.registry, self.supervisor, self.manager = registry, supervisor, manager


@asynccontextmanager
async def fabric(monkeypatch: pytest.MonkeyPatch, *, manager: bool = True) -> AsyncIterator[Fabric]:
    """Services that stand, and an environment that says where."""
    async with (
        standing(core.SERVICE) as first,
        standing("Supervisor/mainpc") as second,
        standing(resource_manager.SERVICE) as third,
    ):
        places = {core.SERVICE: first.port, "Supervisor/mainpc": second.port, resource_manager.SERVICE: third.port}
        told = only(*(f"{name}={port}@127.0.0.1" for name, port in places.items()))
        monkeypatch.setenv(SERVICES_VARIABLE, told)
        if not manager:
            await third.close(drain_s=0)
        yield Fabric(Registry(first), Arbiter(second), Arbiter(third) if manager else None)


@asynccontextmanager
async def serving(agent: Agent) -> AsyncIterator[Agent]:
    """An agent that serves until the block is left."""
    up = asyncio.Event()
    task = asyncio.create_task(agent.serve(up.set))
    waiting = asyncio.create_task(up.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        await task
    try:
        yield agent
    finally:
        agent.shell.stop()
        await task
