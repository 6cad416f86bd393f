"""A host with simulated cards and its leases, and programs that hold memory on them, for the tests of leases."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from common.api import leases, supervisor
from common.client.aio import AsyncClient
from common.client.directory import Place
from common.gpu.cards import CardSource
from common.gpu.process_identity import identify
from common.gpu.simulated import GIB, SimulatedCards, ensure_cards
from common.service.shell import Shell, ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import RecordStore
from common.supervisor.leasing import sampling, writer
from common.supervisor.leasing.card_leases import CardLeases
from common.telemetry.system_clock import SystemClock, system_rng
from common.transport.sockets import Endpoint
from common.vram.cards import ProcessId
from common.vram.footprint import Footprints
from common.vram.rungs import DEFAULT as LADDER
from common.vram.rungs import LadderPolicy
from tests.common.service.lab import Peer, peer
from tests.lab.nowhere import alone

SUPERVISOR = "Supervisor/mainpc"
TOTALS = (24 * GIB, 12 * GIB)


def card_folder(tmp_path: Path, index: int = 0) -> Path:
    return tmp_path / "mainpc" / "cards" / str(index)


def two_cards(tmp_path: Path) -> SimulatedCards:
    folder = tmp_path / "mainpc" / "cards"
    ensure_cards(folder, "mainpc", TOTALS)
    return SimulatedCards("mainpc", folder)


class Host:
    """One host's supervisor, as far as leases go."""

    def __init__(self, shell: Shell, leases_: CardLeases, caller: Peer, client: AsyncClient) -> None:
        self.shell = shell
        self.leases = leases_
        self.caller = caller
        self.client = client

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        """A call of a bare REQ peer."""
        return await self.caller.plain(action, **fields)

    async def acquire(self, gib: float, model: str = "whisper", **fields: Any) -> dict[str, Any]:
        return await self.ask("acquire_lease", model=model, bytes=int(gib * GIB), **fields)

    async def granted(self, gib: float, **fields: Any) -> dict[str, Any]:
        reply = await self.acquire(gib, **fields)
        assert reply["status"] == "success", reply
        return reply

    async def release(self, granted: dict[str, Any]) -> dict[str, Any]:
        return await self.ask("release_lease", lease_id=granted["lease_id"], fencing_token=granted["fencing_token"])

    async def held(self) -> list[str]:
        return [lease["lease_id"] for lease in (await self.ask("list_leases"))["leases"]]

    async def decisions(self, subject: str) -> list[str]:
        """What was decided about a lease, a model or a key, oldest first."""
        receipts = (await self.ask("explain", subject=subject))["receipts"]
        return [receipt["decision"] for receipt in reversed(receipts)]

    async def card(self, index: int = 0) -> dict[str, Any]:
        return dict((await self.ask("get_gpus"))["cards"][index])


@asynccontextmanager
async def host(
    cards: CardSource | None,
    store: RecordStore | None = None,
    problem: str = "",
    policy: LadderPolicy = LADDER,
    footprints: Footprints | None = None,
    **settings: Any,
) -> AsyncIterator[Host]:
    """The host, open; closed at the end unless it was already."""
    made = ShellSettings(**{"service": "Supervisor", "host": "mainpc", "port": 0, "events_port": 0} | settings)
    shell = Shell(made, supervisor.TOPICS, store or MemoryStore())
    card_leases = CardLeases(shell, made.host, cards, problem, policy=policy, footprints=footprints)
    card_leases.add_routes()
    await card_leases.open()
    await shell.open()
    place = Place(Endpoint.tcp("127.0.0.1", shell.port), Endpoint.tcp("127.0.0.1", shell.events_port))
    try:
        async with (
            peer(shell.port, zmq.REQ) as caller,
            AsyncClient(alone({SUPERVISOR: place}), SystemClock(), system_rng()) as client,
        ):
            yield Host(shell, card_leases, caller, client)
    finally:
        await card_leases.close()
        await shell.close(drain_s=1.0)


@contextmanager
def program(*command: str) -> Iterator[ProcessId]:
    """A process that lives until the end of the block or until it is killed."""
    process = subprocess.Popen(command or ("sleep", "1000"), start_new_session=True, stdout=subprocess.DEVNULL)
    pinned = identify(process.pid)
    assert pinned is not None
    try:
        yield pinned
    finally:
        process.kill()
        process.wait()


def roomy(mainpc: Host, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A host with 256 GiB of RAM, as looked at last; what is available from now on is the last of the list."""
    available = [200 * GIB]
    mainpc.leases._writer.table.resources.measure(
        ram_total_bytes=256 * GIB, ram_available_bytes=200 * GIB, disk_total_bytes=GIB, disk_available_bytes=GIB
    )
    monkeypatch.setattr(writer, "ram_available_bytes", lambda: available[-1])
    monkeypatch.setattr(sampling, "HOST_LOOK_S", 1_000.0)
    return available


def owner(process: ProcessId) -> dict[str, Any]:
    return {"agent_name": "agent", "pid": process.pid}


def asking(gib: float, **fields: Any) -> leases.AcquireLease:
    return leases.AcquireLease(**{"model": "whisper", "bytes": int(gib * GIB)} | fields)
