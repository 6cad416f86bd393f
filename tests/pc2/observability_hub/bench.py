"""The hub on real sockets in this process: supervisors and a registry that say what a test wants, and agents that can be slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from common.api import core_orchestrator as registry
from common.api import links, supervisor
from common.api import observability_hub as api
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.client.settings import at_own_pace
from common.errors import Unavailable
from common.service.shell import Shell, ShellSettings
from pc2.observability_hub.service import ObservabilityHub
from tests.lab.full_store import FullStore
from tests.lab.nowhere import nobody_but
from tests.pc2.observability_hub.saying import agent, process, vitals

HUB = api.SERVICE
PATIENCE_S = 60.0


async def until(fact: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Wait until the fact holds."""
    async with asyncio.timeout(within_s):
        while not fact():
            await asyncio.sleep(0.01)


class Agent:
    """An agent: a shell with its three ports."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shell = Shell(ShellSettings(name, "pc2", 0, 0, 0))

    @property
    def process(self) -> supervisor.Process:
        """As its supervisor lists it."""
        return process(self.name, health_check_port=self.shell.health_port, port=self.shell.port)


class Host:
    """A supervisor that says what it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shell = Shell(ShellSettings("Supervisor", name, 0, 0, 0), supervisor.TOPICS)
        self.processes: dict[str, supervisor.Process] = {}
        self.links: list[links.Link] = []
        self.shell.handle(supervisor.LIST_PROCESSES, self._list)
        self.shell.handle(supervisor.GET_VITALS, lambda _request, _call: vitals(name))
        self.shell.handle(links.LIST_LINKS, self._links)

    def _list(self, _request: Any, _call: Any) -> supervisor.Processes:
        as_of = self.shell.publisher.cursor(supervisor.PROCESS_CHANGED.name)
        return supervisor.Processes(host=self.name, processes=list(self.processes.values()), as_of=as_of)

    def _links(self, _request: Any, _call: Any) -> links.Links:
        as_of = self.shell.publisher.cursor(links.LINK_CHANGED.name)
        return links.Links(host=self.name, links=self.links, as_of=as_of)

    def say(self, told: supervisor.Process, was: str = "ready") -> None:
        """A process changed."""
        self.processes[told.name] = told
        event = supervisor.ProcessChanged(process=told, was=was)  # type: ignore[arg-type]
        self.shell.publisher.publish(supervisor.PROCESS_CHANGED, told.name, event)

    def say_vitals(self, **fields: Any) -> None:
        """Vitals were sampled."""
        self.shell.publisher.publish(supervisor.VITALS_SAMPLED, self.name, vitals(self.name, **fields))


class Registry:
    """A registry that says what it is told to."""

    def __init__(self) -> None:
        self.shell = Shell(ShellSettings(registry.SERVICE, "mainpc", 0, 0, 0), registry.TOPICS)
        self.agents: dict[str, registry.Agent] = {}
        self.shell.handle(registry.LIST_AGENTS, self._list)
        self.shell.handle(registry.GET_AGENT_ENDPOINT, self._endpoint)

    def _list(self, _request: Empty, _call: Any) -> registry.Agents:
        as_of = self.shell.publisher.cursor(registry.AGENTS_CHANGED.name)
        return registry.Agents(agents=list(self.agents.values()), as_of=as_of)

    def _endpoint(self, asked: registry.LocateAgent, _call: Any) -> registry.Endpoint:
        known = self.agents[asked.agent_name]
        if known.host == "nowhere":
            raise Unavailable(f"no relay leads to {known.agent_name}")
        return registry.Endpoint(
            agent_name=known.agent_name,
            host=known.host,
            port=known.port,
            health_check_port=known.health_check_port,
            events_port=0,
            capabilities=[],
            liveness="alive",
            dress="native",
            location=known.location,
        )

    def say(self, change: Any, name: str, **fields: Any) -> None:
        """An agent changed."""
        told = agent(name, **fields)
        self.agents[name] = told
        if change == "deregistered":
            del self.agents[name]
        event = registry.AgentChanged(change=change, agent=told)
        self.shell.publisher.publish(registry.AGENTS_CHANGED, name, event)


class Bench:
    """The hub among them; `health` asks it as anyone would."""

    def __init__(self, hosts: dict[str, Host], registry: Registry, folder: Path, store: KeptStore) -> None:
        self.hosts = hosts
        self.registry = registry
        self.folder = folder
        self.store = store
        self.directory = nobody_but(*self._places())
        self.hub = self.new_hub()
        self.client: AsyncClient

    def _places(self) -> list[str]:
        places = [
            f"Supervisor/{one.name}={one.shell.port}:{one.shell.events_port}@127.0.0.1" for one in self.hosts.values()
        ]
        return [*places, f"{registry.SERVICE}={self.registry.shell.port}:{self.registry.shell.events_port}@127.0.0.1"]

    def new_hub(self) -> ObservabilityHub:
        """A hub that is not open yet."""
        settings = ShellSettings(HUB, "pc2", 0, 0, 0)
        return ObservabilityHub(settings, self.directory, self.store, self.folder)

    async def open(self) -> None:
        """Serve."""
        await self.hub.open()
        place = f"{HUB}={self.hub.shell.port}:{self.hub.shell.events_port}@127.0.0.1"
        self.client = open_async_client(at_own_pace(), Directory.parse(place))

    async def close(self) -> None:
        """Stop."""
        await self.client.close()
        await self.hub.close()

    async def health(self, host: str = "") -> api.FabricHealth:
        """What get_health says."""
        return await self.client.call(HUB, api.GET_HEALTH, api.GetHealth(host=host), timeout_s=PATIENCE_S)

    def verdict(self, key: str) -> str:
        """What the hub thinks of a process or host."""
        subject = self.hub._ward.find(key)
        if subject is not None:
            return subject.steady.opinion.verdict
        host = self.hub._ward.hosts.get(key)
        return host.steady.opinion.verdict if host is not None else ""

    async def settled(self) -> None:
        """Wait until all there is, the link too, is healthy."""
        ward, links = self.hub._ward, self.hub._links
        await until(
            lambda: (
                all(one.steady.opinion.verdict == "healthy" for one in (*ward, *ward.hosts.values()))
                and [one.verdict for one in links.show()] == ["healthy"]
            )
        )

    async def until(self, key: str, verdict: str) -> None:
        """Wait for a verdict."""
        await until(lambda: self.verdict(key) == verdict)


class KeptStore(FullStore):
    """Records that outlive the hub's shell, on a disk that can be full."""

    def close(self) -> None:
        """Keeps them."""


@asynccontextmanager
async def running(folder: Path, *agents: str) -> AsyncIterator[tuple[Bench, dict[str, Agent]]]:
    """Two hosts, a registry, the hub, and agents of pc2."""
    hosts = {name: Host(name) for name in ("mainpc", "pc2")}
    told, made = Registry(), {name: Agent(name) for name in agents}
    shells = [told.shell, *(host.shell for host in hosts.values()), *(one.shell for one in made.values())]
    for shell in shells:
        await shell.open()
    hosts["pc2"].processes = {one.name: one.process for one in made.values()}
    bench = Bench(hosts, told, folder, KeptStore())
    await bench.open()
    try:
        yield bench, made
    finally:
        with suppress(Exception):
            await bench.close()
        for shell in shells:
            await shell.close(drain_s=0)
