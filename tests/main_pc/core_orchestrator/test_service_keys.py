"""What CoreOrchestrator's callers on another machine may register."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.api import core_orchestrator as api
from common.client.aio import AsyncClient
from common.client.pursuit import Found
from common.client.settings import at_own_pace
from common.errors import Forbidden
from common.service.settings import ShellSettings
from common.store.memory import MemoryStore
from common.telemetry.system_clock import SystemClock, system_rng
from common.transport.sockets import Endpoint
from main_pc.core_orchestrator.service import CoreOrchestrator
from tests.lab.keys import KeyHome
from tests.lab.nowhere import nobody_but

ADDRESS = "127.0.0.2"
LAN = nobody_but("Supervisor/pc2=1:1@10.0.0.2#pc2/supervisor")


def asked(location: str, host: str = "127.0.0.1") -> api.RegisterAgent:
    return api.RegisterAgent(agent_name="door", host=host, port=7090, capabilities=[], location=location)


async def test_nobody_offers_what_answers_on_the_loopback_of_another_machine(tmp_path: Path) -> None:
    keys = KeyHome(tmp_path)
    server, relay = keys.add("mainpc", "core_orchestrator", "service"), keys.add("pc2", "relay", "relay")
    keys.write()
    file = keys.file("mainpc", "core_orchestrator")
    settings = ShellSettings(api.SERVICE, "mainpc", 0, 0, addresses=("127.0.0.1", ADDRESS), keys=file, lone=False)
    service = CoreOrchestrator(settings, LAN, MemoryStore())
    await service.open()
    there = Found(Endpoint(f"tcp://{ADDRESS}:{service.shell.port}", server.public, relay))
    here = Found(Endpoint.tcp("127.0.0.1", service.shell.port))
    async with AsyncClient(nobody_but(), SystemClock(), system_rng(), at_own_pace(20.0)) as client:
        with pytest.raises(
            Forbidden, match="local@pc2 is on pc2 and cannot offer what answers on the loopback of mainpc"
        ):
            await client.call_at(there, api.REGISTER_AGENT, asked("mainpc"), timeout_s=60)
        with pytest.raises(Forbidden, match="of pc2"):
            await client.call_at(here, api.REGISTER_AGENT, asked("pc2"), timeout_s=60)
        for found, fine in ((there, asked("pc2")), (there, asked("")), (there, asked("mainpc", "10.0.0.1"))):
            await client.call_at(found, api.REGISTER_AGENT, fine, timeout_s=60)
    await service.close()
