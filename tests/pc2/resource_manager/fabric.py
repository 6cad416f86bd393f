"""ResourceManager on real sockets: hosts with the real lease table over simulated cards, and cables that can be cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from common.api import core_orchestrator, resource_manager, supervisor
from common.api import leases as api
from common.api.basic import EventsSince
from common.api.leases import AcquireLease, Lease, LeaseChanged, LeaseGranted, LeaseProgress
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.client.pursuit import Found
from common.client.settings import ClientSettings
from common.gpu.simulated import SimulatedCards, ensure_cards
from common.resilience.budget import RetrySettings
from common.service.shell import Shell, ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import RecordStore
from common.supervisor.leasing.card_leases import CardLeases
from common.vram.amount import GIB
from pc2.resource_manager.service import ResourceManager
from pc2.resource_manager.steps import PlannerPolicy
from tests.lab.nowhere import nobody_but

RM = resource_manager.SERVICE
CORE = core_orchestrator.SERVICE
PATIENCE_S = 60.0
PLANNER = PlannerPolicy(answer_s=1.0, retry_s=0.1, pause_s=0.2)


async def until(fact: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Wait until the fact holds."""
    async with asyncio.timeout(within_s):
        while not fact():
            await asyncio.sleep(0.005)


class Cable:
    """A TCP way to a port of this host that can swallow replies and be cut; `port` is where it begins."""

    def __init__(self, to_port: int) -> None:
        self._to = to_port
        self._server: asyncio.Server | None = None
        self._ways: set[asyncio.StreamWriter] = set()
        self._running: set[asyncio.Task[None]] = set()
        self.port = 0
        self.mute = False
        self.swallowed = 0

    async def open(self) -> None:
        """Be there (again), on the same port."""
        self.mute = False
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Nobody listens any more, and whoever was connected no longer is."""
        assert self._server is not None
        self._server.close()
        for way in list(self._ways):
            way.transport.abort()
        if self._running:
            await asyncio.wait(self._running, timeout=PATIENCE_S)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._ways |= {writer, back}
        for work in (self._carry(reader, back, False), self._carry(there, writer, True)):
            task = asyncio.get_running_loop().create_task(work)
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: bool) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                if reply and self.mute:
                    self.swallowed += len(piece)
                else:
                    writer.write(piece)
        writer.transport.abort()
        self._ways.discard(writer)


class Host:
    """One host's supervisor as far as leases go: the real table over simulated cards."""

    def __init__(self, name: str, folder: Path, cards: Sequence[float], store: RecordStore | None = None) -> None:
        ensure_cards(folder, name, [int(gib * GIB) for gib in cards])
        settings = ShellSettings("Supervisor", name, 0, 0, 0)
        self.name = name
        self.folder = folder
        self.shell = Shell(settings, supervisor.TOPICS, store or MemoryStore())
        self.leases = CardLeases(self.shell, name, SimulatedCards(name, folder))
        self.cable: Cable

    async def open(self) -> None:
        """Serve."""
        self.leases.add_routes()
        await self.leases.open()
        await self.shell.open()
        self.cable = Cable(self.shell.port)
        await self.cable.open()

    async def close(self) -> None:
        """Stop."""
        await self.cable.cut()
        await self.leases.close()
        await self.shell.close(drain_s=0)

    @property
    def place(self) -> str:
        """As the directory has it: requests through the cable, events beside it."""
        return f"Supervisor/{self.name}={self.cable.port}:{self.shell.events_port}@127.0.0.1"

    @property
    def live(self) -> list[Lease]:
        """The leases that this host's own table holds."""
        return self.leases._writer.table.leases(self.shell.clock.monotonic())

    @property
    def changes(self) -> list[LeaseChanged]:
        """Everything this host ever published about its leases."""
        publisher, topic = self.shell.publisher, api.LEASE_CHANGED.name
        epoch = publisher.cursor(topic).epoch
        past = publisher.since(EventsSince(topic=topic, epoch=epoch, seq=0, limit=10_000)).events
        return [msgspec.convert(event.event, LeaseChanged) for event in past]

    @property
    def granted(self) -> list[Lease]:
        """Every lease it ever granted."""
        return [change.lease for change in self.changes if change.change == "granted"]


class Fabric:
    """Two hosts, ResourceManager, and a client that knows where all of them are."""

    def __init__(self, hosts: dict[str, Host], service: ResourceManager) -> None:
        self.hosts = hosts
        self.service = service
        self.shell = service.shell
        self.client = self.another_client()

    def another_client(self) -> AsyncClient:
        """A client of its own."""
        return open_async_client(ClientSettings(retry=RetrySettings(attempts=1)), self.places)

    @property
    def hosts_lacked(self) -> dict[str, str]:
        """The hosts that ResourceManager lacks, with the reason; there is no CoreOrchestrator here, which it lacks always."""
        return {name: why for name, why in self.shell.lacks.items() if name != CORE}

    @property
    def places(self) -> Directory:
        """Where hosts and ResourceManager are."""
        own = f"{RM}={self.shell.port}:{self.shell.events_port}@127.0.0.1"
        return directory(list(self.hosts.values()), own)

    async def acquire(
        self, gib: float, model: str = "m", *, timeout_s: float = PATIENCE_S, **fields: Any
    ) -> LeaseGranted:
        """A lease of so many GiB; asked for once, and under no key that `fields` do not have."""
        asked = AcquireLease(model=model, bytes=int(gib * GIB), **fields)
        place = self.places.place(RM)
        assert place is not None
        granted = await self.client.call_at(Found(place.requests), api.ACQUIRE_LEASE, asked, timeout_s=timeout_s)
        assert isinstance(granted, LeaseGranted)
        return granted

    async def release(self, granted: LeaseGranted) -> None:
        """Give it back through ResourceManager."""
        held = api.ReleaseLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
        await self.client.call(RM, api.RELEASE_LEASE, held)

    async def call(self, verb: str, **fields: Any) -> dict[str, Any]:
        """Any verb of ResourceManager."""
        return await self.client.call(RM, verb, fields, timeout_s=PATIENCE_S)

    def begin(self, gib: float, model: str = "m", wait_s: float = PATIENCE_S, **fields: Any) -> Wanting:
        """A caller that waits."""
        asked = AcquireLease(model=model, bytes=int(gib * GIB), wait_s=wait_s, **fields)
        return Wanting(self.client, asked)

    @property
    def live(self) -> list[Lease]:
        """The leases in all hosts' own tables."""
        return [lease for host in self.hosts.values() for lease in host.live]


class Wanting:
    """A caller of acquire_lease on its way: what it was told, and its end."""

    def __init__(self, client: AsyncClient, asked: AcquireLease) -> None:
        self.told: list[LeaseProgress] = []
        self._task = asyncio.get_running_loop().create_task(self._ask(client, asked))

    async def _ask(self, client: AsyncClient, asked: AcquireLease) -> LeaseGranted:
        async for item in client.stream(RM, api.ACQUIRE_LEASE, asked, timeout_s=asked.wait_s + PATIENCE_S):
            if isinstance(item, LeaseGranted):
                return item
            self.told.append(item)
        raise AssertionError("a stream without an end")

    @property
    def done(self) -> bool:
        """Whether it has its answer."""
        return self._task.done()

    async def granted(self) -> LeaseGranted:
        """The lease; raises the refusal."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._task

    async def withdraw(self) -> None:
        """It does not want it any more."""
        self._task.cancel()
        await asyncio.wait([self._task], timeout=PATIENCE_S)


def directory(hosts: Sequence[Host], *more: str) -> Directory:
    """Where they are."""
    return nobody_but(*(host.place for host in hosts), *more)


@asynccontextmanager
async def two_hosts(
    folder: Path, mainpc: Sequence[float] = (24,), pc2: Sequence[float] = (12,)
) -> AsyncIterator[dict[str, Host]]:
    """A 24 GiB card on one host and a 12 GiB card on the other, unless told otherwise."""
    made = {"mainpc": Host("mainpc", folder / "mainpc", mainpc), "pc2": Host("pc2", folder / "pc2", pc2)}
    async with AsyncExitStack() as stack:
        for host in made.values():
            await host.open()
            stack.push_async_callback(host.close)
        yield made


@asynccontextmanager
async def manager(
    hosts: dict[str, Host], store: RecordStore | None = None, policy: PlannerPolicy = PLANNER
) -> AsyncIterator[Fabric]:
    """ResourceManager over these hosts."""
    places = directory(list(hosts.values()))
    settings = ShellSettings(RM, "pc2", 0, 0, 0)
    service = ResourceManager(settings, places, store or MemoryStore(), MemoryStore(), policy)
    await service.open()
    made = Fabric(hosts, service)
    try:
        yield made
    finally:
        await made.client.close()
        await service.close()


@asynccontextmanager
async def fabric(
    folder: Path,
    mainpc: Sequence[float] = (24,),
    pc2: Sequence[float] = (12,),
    store: RecordStore | None = None,
    policy: PlannerPolicy = PLANNER,
) -> AsyncIterator[Fabric]:
    """Two hosts and ResourceManager, which has heard of both."""
    async with two_hosts(folder, mainpc, pc2) as hosts, manager(hosts, store, policy) as made:
        await until(lambda: not made.hosts_lacked)
        yield made


class Bare:
    """A REQ socket that knows nothing of Tandem."""

    def __init__(self, port: int) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        """One JSON object for another."""
        async with asyncio.timeout(PATIENCE_S):
            await self._socket.send(json.dumps({"action": action, **fields}).encode())
            answer: dict[str, Any] = json.loads(await self._socket.recv())
            return answer

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        self._context.term()
