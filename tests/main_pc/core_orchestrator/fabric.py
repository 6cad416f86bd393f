"""A small fabric on real sockets for the service's tests: CoreOrchestrator, agents in both dresses, and supervisors that say
what they are told to say.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
import zmq

from common.api import leases, supervisor
from common.api.basic import Phase
from common.api.core_orchestrator import SERVICE
from common.api.leases import Lease, Leases, Owner
from common.api.supervisor import Process, ProcessChanged, Processes
from common.api.words import Access, Blob, Message, Verb
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import RecordStore
from main_pc.core_orchestrator.service import CoreOrchestrator, Limits
from tests.lab.nowhere import nobody_but
from tests.lab.service_process import until

T = TypeVar("T")
Dict = dict[str, Any]
Handler = Callable[[Dict, Call], Awaitable[Dict]]


def directory(**places: tuple[int, int]) -> Directory:
    """These places, `Supervisor/mainpc` as `Supervisor__mainpc`, and nobody elsewhere."""
    known = ((name.replace("__", "/"), ports) for name, ports in places.items())
    return nobody_but(*(f"{name}={one}:{two}@127.0.0.1" for name, (one, two) in known))


class Core:
    """CoreOrchestrator in this process, and a native client of it."""

    def __init__(self, service: CoreOrchestrator, client: AsyncClient) -> None:
        self.service = service
        self.shell = service.shell
        self.client = client

    async def call(self, verb: str, **fields: Any) -> Dict:
        return await self.client.call(SERVICE, verb, fields, timeout_s=60.0)

    async def submit(self, capability: str, **fields: Any) -> Dict:
        return await self.call("submit_request", capability=capability, **fields)

    async def until_state(self, request_id: str, *states: str, within_s: float = 60.0) -> Dict:
        return await until(
            lambda: self.call("get_request", request_id=request_id), lambda status: status["state"] in states, within_s
        )

    async def register(self, name: str, port: int, *capabilities: str, **fields: Any) -> Dict:
        return await self.call(
            "register_agent", agent_name=name, host="127.0.0.1", port=port, capabilities=capabilities, **fields
        )


@asynccontextmanager
async def core(
    store: RecordStore | None = None, limits: Limits | None = None, **places: tuple[int, int]
) -> AsyncIterator[Core]:
    """The service on ports of the system's choice."""
    settings = ShellSettings(SERVICE, "mainpc", 0, 0, 0)
    service = CoreOrchestrator(settings, directory(**places), store or MemoryStore(), limits)
    await service.open()
    shell = service.shell
    client = open_async_client(None, directory(CoreOrchestrator=(shell.port, shell.events_port)))
    try:
        yield Core(service, client)
    finally:
        await client.close()
        await service.close()


class Work(Message, frozen=True):
    """What a native agent of these tests takes."""

    request_id: str
    data: str = ""
    audio_data: Blob = memoryview(b"")
    params: Dict = msgspec.field(default_factory=dict)


@asynccontextmanager
async def native_agent(name: str, **handlers: Handler) -> AsyncIterator[Shell]:
    """A native agent in this process: a shell with one verb per handler."""
    shell = Shell(ShellSettings(name, "mainpc", 0))
    for verb, handler in handlers.items():
        shell.handle(Verb(verb, Work, Message, Access.USE, part=Message), _awaited(handler))
    await shell.open()
    try:
        yield shell
    finally:
        await shell.close(drain_s=0)


def _awaited(handler: Handler) -> Callable[[Work, Call], Any]:
    async def handle(request: Work, call: Call) -> Any:
        return await handler(msgspec.structs.asdict(request), call)

    return handle


class PlainAgent:
    """A bare REP socket on a thread of its own; `answer` makes the reply of a request."""

    def __init__(self, answer: Callable[[Dict], Dict]) -> None:
        self._answer = answer
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._socket, suppress(zmq.ContextTerminated):
            while True:
                self._socket.send(json.dumps(self._answer(json.loads(self._socket.recv()))).encode())

    def __enter__(self) -> PlainAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.term()
        self._thread.join(60)


class FakeSupervisor:
    """A supervisor on real sockets that says of its processes what it is told to say."""

    def __init__(self, host: str, port: int = 0, events_port: int = 0) -> None:
        self.host = host
        self.shell = Shell(ShellSettings(f"Supervisor/{host}", host, port, events_port), supervisor.TOPICS)
        self.processes: dict[str, Process] = {}
        self.leases: dict[str, Lease] = {}
        self.shell.handle(supervisor.LIST_PROCESSES, self._list)
        self.shell.handle(leases.LIST_LEASES, self._leases)

    @property
    def ports(self) -> tuple[int, int]:
        return self.shell.port, self.shell.events_port

    def _list(self, _asked: supervisor.ListProcesses, _call: Call) -> Processes:
        as_of = self.shell.publisher.cursor("processes.changed")
        return Processes(host=self.host, processes=list(self.processes.values()), as_of=as_of)

    def _leases(self, _asked: leases.ListLeases, _call: Call) -> Leases:
        return Leases(leases=list(self.leases.values()), as_of=self.shell.publisher.cursor("leases.changed"))

    def knows(self, name: str, phase: Phase, *capabilities: str, pid: int = 0) -> Process:
        self.processes[name] = process = Process(
            name=name, kind="agent", phase=phase, waiting_for="", pid=pid, start_time=0, restarts=0, uptime_s=0.0,
            rss_bytes=0, cpu_pct=0.0, port=0, health_check_port=0, capabilities=list(capabilities), last_exit="",
            stderr_tail=[], since="2026-01-01T00:00:00Z",
        )  # fmt: skip
        return process

    def tells(self, name: str, phase: Phase, *capabilities: str, pid: int = 0) -> None:
        process = self.knows(name, phase, *capabilities, pid=pid)
        event = ProcessChanged(process=process, was="ready")
        self.shell.publisher.publish(supervisor.PROCESS_CHANGED, name, event)

    def grants(self, lease_id: str) -> Lease:
        self.leases[lease_id] = lease = Lease(
            lease_id=lease_id, model="m", bytes=1, measured_bytes=0, verified=False, priority=50, host=self.host,
            card=0, card_uuid="GPU-1", fencing_token=1, owner=Owner(), identity="", ttl_s=60.0, expires_in_s=60.0,
            granted_at="2026-01-01T00:00:00Z",
        )  # fmt: skip
        return lease


@asynccontextmanager
async def fake_supervisor(host: str) -> AsyncIterator[FakeSupervisor]:
    supervisor_ = FakeSupervisor(host)
    await supervisor_.shell.open()
    try:
        yield supervisor_
    finally:
        await supervisor_.shell.close(drain_s=0)
