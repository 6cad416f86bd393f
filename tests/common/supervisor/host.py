"""Whole supervisors on ports of the system's choosing, in this process, and a client that knows nothing of Tandem."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from common.api.supervisor import Process
from common.client.directory import SERVICES_VARIABLE
from common.config.schema import Agent, HealthProbe, Peer, Ports, Restart, Startup, Stop
from common.config.settings import Settings
from common.config.units import Duration
from common.security import keyfiles
from common.security.tokens import Minter
from common.supervisor.board import Progress
from common.supervisor.home import HostHome
from common.supervisor.launching import choose_ports
from common.supervisor.service import Supervisor
from common.telemetry.system_clock import SystemClock
from tests.lab.nowhere import NOWHERE

PATIENCE_MS = 60_000
QUICK = Restart(delay_s=Duration(0.01), attempts=2, max_delay_s=Duration(0.05))
SLEEP = ["sh", "-c", "exec sleep 100"]


def agent(
    name: str,
    script: str = "exec sleep 100",
    *depends_on: str,
    after: list[str] | None = None,
    health: HealthProbe | None = None,
    restart: Restart = QUICK,
    term_s: float = 2.0,
    enabled: bool = True,
) -> Agent:
    return Agent(
        name=name,
        command=["sh", "-c", script],
        depends_on=list(depends_on),
        after=after or [],
        health=health or HealthProbe(how="none"),
        stop=Stop(term_s=Duration(term_s)),
        restart=restart,
        enabled=enabled,
    )


def ready_when(file: Path) -> tuple[str, HealthProbe]:
    """A script that listens on its health port once `file` is there, and the probe that sees it."""
    wait = f"while [ ! -e {file} ]; do sleep 0.01; done; exec python3 -I -S -c '{LISTEN}'"
    return wait, HealthProbe(how="tcp", ready_within_s=Duration(60))


LISTEN = """
import os, socket, time
s = socket.create_server(("127.0.0.1", int(os.environ["TANDEM_HEALTH_PORT"])))
time.sleep(100)
"""


def startup(host: str, *agents: Agent, ports: Ports | None = None, peers: dict[str, Peer] | None = None) -> Startup:
    return Startup(1, host, ports or choose_ports(Ports()), agents=list(agents), peers=peers or {})


def peer(ports: Ports) -> Peer:
    return Peer("127.0.0.1", ports.port, ports.events_port)


class Host:
    """One supervisor that runs here, with everything it showed."""

    def __init__(self, startup: Startup, home: Path, environ: dict[str, str] | None = None) -> None:
        self.startup = startup
        self.shown: list[Progress] = []
        self.keys = keyfiles.keys_folder(home, startup.host)
        claimed = HostHome(home, startup.host)
        claimed.claim(SystemClock())
        surroundings = {SERVICES_VARIABLE: NOWHERE} | (environ or {"PATH": os.environ["PATH"]})
        settings = Settings(home, simulate_cards=True)
        self.supervisor = Supervisor(startup, claimed, settings, self.shown.append, surroundings)

    def process(self, name: str) -> Process:
        return next(process for process in self.supervisor._showing.processes() if process.name == name)

    def pid(self, name: str) -> int:
        return self.process(name).pid

    def phases(self) -> dict[str, str]:
        return {process.name: process.phase for process in self.supervisor._showing.processes()}

    @property
    def token(self) -> str:
        """What the operator of this host shows."""
        keys = keyfiles.read(self.keys / keyfiles.OPERATOR_FILE, keyfiles.SigningKeys)
        operator = Minter(keys.name, keys.seed)
        return operator.mint(keys.name, ["control"], f"local@{self.startup.host}", now=time.time(), ttl_s=60).token

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        return await ask(self.supervisor.shell.port, action, **{"_token": self.token, **fields})

    async def stop(self) -> None:
        self.supervisor.stop()
        await asyncio.wait_for(self.supervisor.finished(), 60)
        await self.supervisor.close()


async def ask(port: int, action: str, **fields: Any) -> dict[str, Any]:
    """One plain request over a bare REQ socket."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
    try:
        socket.connect(f"tcp://127.0.0.1:{port}")
        await socket.send(json.dumps({"action": action, **fields}).encode())
        answer: dict[str, Any] = json.loads(await socket.recv())
        return answer
    finally:
        socket.close()
        context.term()


@asynccontextmanager
async def running(home: Path, *startups: Startup) -> AsyncIterator[list[Host]]:
    """Supervisors of these hosts, opened one after the other and stopped together."""
    async with AsyncExitStack() as stack:
        hosts = []
        for one in startups:
            host = Host(one, home)
            stack.push_async_callback(host.stop)
            await host.supervisor.open()
            hosts.append(host)
        yield hosts
