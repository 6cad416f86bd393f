"""Look-ups on a host: in step with CoreOrchestrator while it is there, from the copy when it is not, restarts included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from common.api import core_orchestrator as api
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.client.directory import Place
from common.client.settings import at_own_pace
from common.config.schema import Peer, Ports, Startup
from common.errors import StorageUnavailable
from common.registry.copy import AGENTS
from common.registry.location import Relayed
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.store.open import open_store
from common.store.protocol import Change, Durability, RecordStore
from common.supervisor.lookups import Lookups
from common.transport.sockets import Endpoint
from tests.common.registry.test_copy import agent
from tests.common.supervisor.host import ask
from tests.common.supervisor.lives import until
from tests.lab.nowhere import alone

STARTUP = Startup(1, "pc2", Ports(), peers={"mainpc": Peer("10.0.0.1", 7090, 7590)})


class Registry:
    """A CoreOrchestrator that lists what it is given."""

    def __init__(self, *agents: api.Agent, ports: tuple[int, int] = (0, 0)) -> None:
        self.shell = Shell(ShellSettings("CoreOrchestrator", "mainpc", *ports), [api.AGENTS_CHANGED])
        self.agents = {one.agent_name: one for one in agents}
        self.shell.handle(api.LIST_AGENTS, self._list)

    def _list(self, _asked: Empty, _call: Call) -> api.Agents:
        as_of = self.shell.publisher.cursor(api.AGENTS_CHANGED.name)
        return api.Agents(agents=list(self.agents.values()), as_of=as_of)

    def tell(self, change: str, told: api.Agent) -> None:
        event = api.AgentChanged(change=change, agent=told)  # type: ignore[arg-type]
        self.shell.publisher.publish(api.AGENTS_CHANGED, told.agent_name, event)

    @property
    def place(self) -> Place:
        return Place(Endpoint.tcp("127.0.0.1", self.shell.port), Endpoint.tcp("127.0.0.1", self.shell.events_port))


class Host:
    """A supervisor's shell with look-ups alone."""

    def __init__(self, store: RecordStore) -> None:
        self.shell = Shell(ShellSettings("Supervisor", "pc2", 0, 0), (), store)
        self.told: list[list[str]] = []
        self.relayed: dict[str, Relayed] = {}
        self.lookups = Lookups(self.shell, STARTUP, lambda: self.relayed, self._changed)
        self.lookups.add_routes()
        self.client: AsyncClient | None = None

    def _changed(self) -> None:
        self.told.append(sorted(one.agent_name for one in self.lookups.agents))

    def follow(self, place: Place) -> None:
        directory = alone({"CoreOrchestrator": place})
        self.client = AsyncClient(directory, self.shell.clock, self.shell.rng, at_own_pace())
        self.lookups.follow(self.client)

    async def names(self) -> Sequence[str]:
        listed = await ask(self.shell.port, "list_agents")
        return [one["agent_name"] for one in listed.get("agents", [])]

    async def close(self) -> None:
        await self.shell.close(0)
        if self.client is not None:
            await self.client.close()


@asynccontextmanager
async def registry(*agents: api.Agent, ports: tuple[int, int] = (0, 0)) -> AsyncIterator[Registry]:
    made = Registry(*agents, ports=ports)
    await made.shell.open()
    try:
        yield made
    finally:
        await made.shell.close(0)


@asynccontextmanager
async def host(store: RecordStore) -> AsyncIterator[Host]:
    made = Host(store)
    made.lookups.open()
    await made.shell.open()
    try:
        yield made
    finally:
        await made.close()


def stored(tmp_path: Path) -> RecordStore:
    return open_store(tmp_path, "supervisor", Durability.NORMAL)


async def test_what_the_registry_tells_is_answered_here_and_outlives_both(tmp_path: Path) -> None:
    async with registry(agent("a"), agent("b")) as core, host(stored(tmp_path)) as here:
        assert (await ask(here.shell.port, "list_agents"))["code"] == "unavailable"
        here.follow(core.place)
        await until(lambda: here.told and here.told[-1] == ["a", "b"])
        core.tell("registered", agent("c", "alive", 0, "echo"))
        core.tell("deregistered", agent("b"))
        await until(lambda: here.told[-1] == ["a", "c"])
        found = await ask(here.shell.port, "find_agents", capability="echo")
        assert [one["agent_name"] for one in found["agents"]] == ["c"]
        assert found["age_s"] < 20
    async with host(stored(tmp_path)) as again:
        assert await again.names() == ["a", "c"]
        assert again.told == [["a", "c"]]
        assert (await ask(again.shell.port, "list_agents"))["age_s"] >= 0.0


async def test_a_copy_grows_older_while_the_registry_is_away_and_young_again_when_it_is_back(tmp_path: Path) -> None:
    async with host(stored(tmp_path)) as here:
        async with registry(agent("a")) as core:
            here.follow(core.place)
            await until(lambda: here.told and here.told[-1] == ["a"])
            ports = (core.shell.port, core.shell.events_port)
        await until(lambda: not here.lookups._in_step)
        wall = here.shell.clock.wall() + 100.0
        assert here.lookups._copy.age_s(wall) >= 100.0
        assert await here.names() == ["a"]
        async with registry(agent("z"), ports=ports):
            await until(lambda: here.told[-1] == ["z"])
            assert here.lookups._in_step


async def test_an_answer_is_relative_to_this_host(tmp_path: Path) -> None:
    async with host(stored(tmp_path)) as here, registry(agent("there", port=9_000)) as core:
        here.follow(core.place)
        await until(lambda: here.told and here.told[-1] == ["there"])
        away = await ask(here.shell.port, "get_agent_endpoint", agent_name="there")
        assert away["code"] == "unavailable"
        here.relayed["there"] = Relayed(4_711, 0, 4_712)
        found = await ask(here.shell.port, "get_agent_endpoint", agent_name="there")
        assert (found["host"], found["port"], found["events_port"]) == ("127.0.0.1", 4_711, 4_712)
        assert (await ask(here.shell.port, "get_agent_endpoint", agent_name="nobody"))["code"] == "not_found"


async def test_an_event_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    async with host(stored(tmp_path)) as here, registry(agent("a")) as core:
        here.follow(core.place)
        await until(lambda: here.told and here.told[-1] == ["a"])
        core.shell.publisher.publish(api.AGENTS_CHANGED, "x", Empty())
        core.tell("registered", agent("b"))
        await until(lambda: here.told[-1] == ["a", "b"])


class Refusing:
    """A store that takes nothing while it is told so."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self.refuses = False
        self.where = store.where

    def load(self, table: str) -> object:
        return self._store.load(table)

    def commit(self, changes: Sequence[Change], durability: Durability) -> None:
        self.check()
        self._store.commit(changes, durability)

    def check(self) -> None:
        if self.refuses:
            raise StorageUnavailable("the disk is full")
        self._store.check()

    def close(self) -> None:
        self._store.close()


async def test_what_a_full_disk_did_not_take_is_answered_all_the_same_and_written_when_it_takes_again(
    tmp_path: Path,
) -> None:
    store = Refusing(stored(tmp_path))
    async with host(store) as here, registry(agent("a")) as core:  # type: ignore[arg-type]
        here.follow(core.place)
        await until(lambda: here.told and here.told[-1] == ["a"])
        store.refuses = True
        core.tell("registered", agent("b"))
        core.tell("deregistered", agent("a"))
        await until(lambda: here.told[-1] == ["b"])
        assert await here.names() == ["b"]
        await until(lambda: here.lookups._unkept)
        store.refuses = False
        await until(lambda: not here.lookups._unkept and [key for key, _ in store.load("registry_copy")] == ["b"])  # type: ignore[attr-defined]


async def test_a_copy_that_cannot_be_read_is_begun_anew(tmp_path: Path) -> None:
    store = stored(tmp_path)
    store.commit([Change(AGENTS.table, "broken", b"\xff")], Durability.NORMAL)
    async with host(store) as here, registry(agent("a")) as core:
        assert (await ask(here.shell.port, "list_agents"))["code"] == "unavailable"
        here.follow(core.place)
        await until(lambda: not here.lookups._unkept and [key for key, _ in store.load(AGENTS.table)] == ["a"])


async def test_a_lookup_by_name_is_answered_within_two_seconds_without_the_registry(tmp_path: Path) -> None:
    async with host(stored(tmp_path)) as here:
        async with registry(agent("a", port=9_000)) as core:
            here.follow(core.place)
            await until(lambda: here.told and here.told[-1] == ["a"])
            place = core.place
        here.relayed["a"] = Relayed(9_000)
        own = Place(Endpoint.tcp("127.0.0.1", here.shell.port))
        nobody = Place(Endpoint.tcp("127.0.0.1", 1))
        directory = alone({"CoreOrchestrator": place, "Supervisor/pc2": own, "Supervisor/mainpc": nobody})
        async with AsyncClient(directory, here.shell.clock, here.shell.rng) as client, asyncio.timeout(60):
            found = await client.locate("a", timeout_s=60.0)
            assert found.endpoint == Endpoint.tcp("127.0.0.1", 9_000)
