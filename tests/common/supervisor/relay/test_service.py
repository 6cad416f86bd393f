"""A host's relay as a whole: far services at their own numbers, far agents, calls passed on by their supervisor, taken ports."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from common.api import relays as api
from common.api.basic import EventsSince
from common.api.core_orchestrator import Agent
from common.client.aio import AsyncClient
from common.client.pursuit import Found
from common.client.settings import at_own_pace
from common.config.schema import Agent as Startable
from common.config.schema import Peer, Ports, Startup
from common.errors import Cancelled, NotFound, TooLarge, Unavailable
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.supervisor.launching import choose_ports
from common.supervisor.relay.forwarding import Forwarding
from common.supervisor.relay.passage import Passage
from common.supervisor.relay.reach import Reach
from common.supervisor.relay.requests import Requests
from common.supervisor.relay.service import FarKeys, Relay
from common.telemetry.system_clock import SystemClock, system_rng
from common.transport.sockets import Endpoint
from tests.common.registry.test_copy import agent
from tests.common.supervisor.lives import until
from tests.common.supervisor.relay.far_host import FAR, SAY, Bare, Said, Say
from tests.lab.keys import KeyHome
from tests.lab.nowhere import nobody_but

FARS_LOOPBACK = "127.0.0.4"


class Speaker:
    """A service or native agent that says what it is told."""

    def __init__(self, settings: ShellSettings) -> None:
        self.shell = Shell(settings)
        self.shell.handle(SAY, self._say)
        self.cancelled = asyncio.Event()

    async def _say(self, asked: Say, call: Call) -> Said:
        try:
            for number in range(asked.parts):
                call.part(Said(text=str(number)))
            await asyncio.sleep(asked.wait_s)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Said(text=asked.text)


class Old:
    """A plain agent: a bare REP socket on loopback; it says what it was asked, and nothing to `silence`."""

    def __init__(self) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.REP)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            asked = json.loads(await self._socket.recv())
            if asked["action"] == "silence":
                return
            size = asked.get("size", 0)
            await self._socket.send_json({"status": "success", "asked": asked["action"], "filling": "x" * size})

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._socket.close(0)
        self._context.term()


class Hosts:
    """`far` with its supervisor and one service, and the relay of `near`."""

    def __init__(self, tmp_path: Path) -> None:
        self.keys = keys = KeyHome(tmp_path, "near")
        keys.add("near", "relay", "relay")
        for process in ("supervisor", "far_service", "speaker"):
            keys.add("far", process, "supervisor" if process == "supervisor" else "service")
        for keys.own_host in ("far", "near"):
            keys.write()
        self.registered: dict[str, Agent] = {}
        self.supervisor = Shell(self.settings("Supervisor", "supervisor"))
        self.forwarding = Forwarding(self.supervisor, self.registered.get)
        self.forwarding.add_routes()
        self.service = Speaker(self.settings("FarService", "far_service"))
        self.near = Shell(ShellSettings("Supervisor", "near", 0, 0), api.TOPICS)
        self.health_port = choose_ports(Ports()).health_check_port
        self.resting_port = choose_ports(Ports()).port
        self.relay: Relay

    def settings(self, name: str, process: str) -> ShellSettings:
        file = self.keys.file("far", process)
        return ShellSettings(name, "far", 0, 0, addresses=(FARS_LOOPBACK, FAR), keys=file, lone=False)

    async def open(self, stack: AsyncExitStack) -> None:
        for shell in (self.supervisor, self.service.shell, self.near):
            await shell.open()
            stack.push_async_callback(shell.close, 0)
        services = {"far_service": Ports(self.service.shell.port, self.service.shell.events_port, self.health_port)}
        peers = {
            "far": Peer(FAR, self.supervisor.port, self.supervisor.events_port, services),
            "neighbour": Peer("127.0.0.1", 7_099, 7_599),
        }
        resting = Startable("resting", ["x"], port=self.resting_port)
        startup = Startup(1, "near", Ports(), peers=peers, agents=[resting])
        self.relay = Relay(self.near, startup, FarKeys(self.keys.folder("near"), "near"))
        self.relay.add_routes()
        stack.push_async_callback(self.relay.close)

    def register(self, *agents: Agent) -> None:
        self.registered.clear()
        self.registered.update({one.agent_name: one for one in agents})
        self.relay.registered(agents)

    def far(self, name: str, port: int, server_key: bytes = b"", **fields: Any) -> Agent:
        return msgspec.structs.replace(agent(name, port=port, **fields), location="far", server_key=server_key.decode())

    async def relays(self) -> dict[str, int]:
        async with bare(self.near.port) as client:
            return {relay["agent_name"]: relay["port"] for relay in (await client.ask("list_relays"))["relays"]}

    def agent_links(self) -> list[Reach]:
        assert self.relay._agents is not None
        ways = [way for _, way, _ in self.relay._agents._offered.values()]
        return [way.reach for way in ways if isinstance(way, Passage)]

    def changes(self) -> list[tuple[str, str]]:
        cursor = self.near.publisher.cursor(api.RELAYS_CHANGED.name)
        told = self.near.publisher.since(EventsSince(topic=api.RELAYS_CHANGED.name, epoch=cursor.epoch, seq=0))
        return [(past.event["change"], past.entity) for past in told.events]


@asynccontextmanager
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with AsyncExitStack() as stack:
        made = Hosts(tmp_path)
        await made.open(stack)
        yield made


@asynccontextmanager
async def linked(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with hosts(tmp_path) as made:
        made.relay.open()
        await until(lambda: not made.near.lacks and all(one.reach.is_up for one in made.relay._passages))
        yield made


@asynccontextmanager
async def bare(port: int) -> AsyncIterator[Bare]:
    client = Bare(port)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def old() -> AsyncIterator[Old]:
    made = Old()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def native() -> AsyncIterator[AsyncClient]:
    client = AsyncClient(nobody_but(), SystemClock(), system_rng(), at_own_pace(20.0))
    try:
        yield client
    finally:
        await client.close()


def at(port: int) -> Found:
    return Found(Endpoint.tcp("127.0.0.1", port))


def free(port: int) -> bool:
    """Whether the relay has let go of a port: libzmq does so on a thread of its own."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def fetched(url: str) -> str:
    def fetch() -> str:
        with urllib.request.urlopen(url, timeout=60) as answer:
            text: str = answer.read().decode()
            return text

    return await asyncio.get_running_loop().run_in_executor(None, fetch)


async def test_a_far_service_answers_at_its_own_numbers_with_its_own_health(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, bare(made.service.shell.port) as client:
        assert (await client.ask("say", text="hello"))["text"] == "hello"
        async with bare(made.health_port) as asker:
            answers = [await asker.ask_raw(b"ping")]
            while not answers[-1]["ready"]:
                answers.append(await asker.ask_raw(b"ping"))
        assert (answers[-1]["service"], answers[-1]["host"]) == ("FarService", "far")
        assert '"service":"FarService"' in await fetched(f"http://127.0.0.1:{made.health_port}/health")
        told = await fetched(f"http://127.0.0.1:{made.health_port}/metrics")
        assert told == "# FarService runs on far: scrape its metrics at its health port there\n"
        metrics = made.near.metrics.exposition().decode()
        assert "tandem_relay_links_up 2.0" in metrics


async def test_a_far_service_that_is_gone_is_unhealthy_at_its_health_port_and_why(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, bare(made.health_port) as asker:
        await made.service.shell.close(0)
        said = await asker.ask_raw(b"ping")
        while said["status"] != "unhealthy" or "cannot be reached since" not in said["reasons"][0]:
            said = await asker.ask_raw(b"ping")
        assert not said["ready"]


async def test_a_taken_port_is_lacked_and_offered_once_it_is_free(tmp_path: Path) -> None:
    async with hosts(tmp_path) as made:
        with socket.create_server(("127.0.0.1", made.service.shell.port)):
            made.relay.open()
            assert "relay FarService" in made.near.lacks
            assert "taken by another process" in made.near.lacks["relay FarService"]
            assert "relay FarService events" not in made.near.lacks
        await until(lambda: "relay FarService" not in made.near.lacks)
        async with bare(made.service.shell.port) as client:
            said = await client.ask("say", text="late")
            while said["status"] != "success":
                said = await client.ask("say", text="late")
            assert said["text"] == "late"


async def test_a_host_without_far_peers_relays_nothing(tmp_path: Path) -> None:
    shell = Shell(ShellSettings("Supervisor", "near", 0, 0), api.TOPICS)
    relay = Relay(shell, Startup(1, "near", Ports()), FarKeys(tmp_path, "near"))
    relay.add_routes()
    await shell.open()
    relay.open()
    relay.registered([agent("a")])
    async with bare(shell.port) as client:
        assert (await client.ask("list_relays"))["relays"] == []
    assert relay.relayed() == {}
    assert not shell.lacks
    await relay.close()
    await shell.close(0)


async def test_a_plain_agent_of_another_host_is_reached_through_its_supervisor(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, old() as agent_there:
        made.register(made.far("old", agent_there.port))
        port = (await made.relays())["old"]
        assert port != agent_there.port, "its number is taken here, by itself"
        assert made.relay.relayed()["old"].port == port
        async with bare(port) as client:
            for action in ("one", "two"):
                assert (await client.ask(action))["asked"] == action
            said = await client.ask("silence", _deadline_ms=300, _id=1)
            assert (said["code"], said["_id"]) == ("deadline_exceeded", 1)


async def test_many_calls_at_once_to_a_plain_agent_never_meet(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, old() as agent_there, AsyncExitStack() as stack:
        made.register(made.far("old", agent_there.port))
        port = (await made.relays())["old"]
        clients = [await stack.enter_async_context(bare(port)) for _ in range(20)]
        said = await asyncio.gather(*(client.ask(f"call {number}") for number, client in enumerate(clients)))
        assert [one.get("asked", one) for one in said] == [f"call {number}" for number in range(20)]


async def test_an_agent_that_is_not_there_any_more_is_unavailable_and_one_that_left_is_not_found(
    tmp_path: Path,
) -> None:
    async with linked(tmp_path) as made:
        silent = socket.socket()
        silent.bind(("127.0.0.1", 0))
        made.register(made.far("gone", silent.getsockname()[1]))
        async with bare((await made.relays())["gone"]) as client:
            assert (await client.ask("anything", _id=3))["code"] == "unavailable"
            made.registered.clear()
            assert (await client.ask("anything"))["code"] == "not_found"
        silent.close()


async def test_an_agent_that_its_own_host_hears_of_a_moment_later_is_asked_then(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, old() as agent_there:
        told = made.far("old", agent_there.port)
        made.relay.registered([told])
        async with bare((await made.relays())["old"]) as client:
            call = asyncio.create_task(client.ask("early"))
            await until(lambda: made.supervisor.onion.in_flight == 1)
            made.registered["old"] = told
            made.forwarding.registered()
            assert (await call)["asked"] == "early"


async def test_an_agent_that_gets_a_key_is_reached_by_it_and_one_that_moves_is_followed(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, native() as client, AsyncExitStack() as stack:
        key = made.keys.pairs["far", "speaker"].public.encode()
        plain = Speaker(ShellSettings("speaker", "far", 0))
        first, second = (Speaker(made.settings("speaker", "speaker")) for _ in range(2))
        for speaker in (plain, first, second):
            await speaker.shell.open()
            stack.push_async_callback(speaker.shell.close, 0)
        ports = []
        for speaker, by in ((plain, b""), (first, key), (second, key)):
            made.register(made.far("speaker", speaker.shell.port, by))
            ports.append((await made.relays())["speaker"])
            await until(lambda: all(one.is_up for one in made.agent_links()))
            assert (await client.call_at(at(ports[-1]), SAY, Say(text="hello"), timeout_s=60)).text == "hello"
        assert ports[1] == ports[2]
        assert made.changes()[0] == ("opened", "speaker")


async def test_what_is_too_large_to_be_passed_on_is_refused_on_either_way(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, old() as agent_there:
        made.register(made.far("old", agent_there.port))
        async with bare((await made.relays())["old"]) as client:
            assert (await client.ask("one", text="x" * api.MAX_FORWARDED_BYTES))["code"] == "too_large"
            assert (await client.ask("one", size=api.MAX_FORWARDED_BYTES))["code"] == "too_large"
            assert (await client.ask("one", text="x" * 1_000_000))["asked"] == "one"


async def test_a_native_agent_without_a_key_streams_and_is_withdrawn_through_its_supervisor(tmp_path: Path) -> None:
    speaker = Speaker(ShellSettings("speaker", "far", 0))
    await speaker.shell.open()
    async with linked(tmp_path) as made, native() as client:
        made.register(made.far("speaker", speaker.shell.port))
        found = at((await made.relays())["speaker"])
        parts: list[str] = []
        said = await client.call_at(
            found, SAY, Say(text="end", parts=3), timeout_s=60, part=lambda part: parts.append(part.text)
        )
        assert (parts, said.text) == (["0", "1", "2"], "end")
        call = asyncio.create_task(client.call_at(found, SAY, Say(wait_s=60), timeout_s=60))
        await until(lambda: speaker.shell.onion.in_flight == 1)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        await asyncio.wait_for(speaker.cancelled.wait(), 60)
    await speaker.shell.close(0)


async def test_an_agent_with_a_key_has_a_way_of_its_own(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, native() as client:
        speaker = Speaker(made.settings("speaker", "speaker"))
        await speaker.shell.open()
        key = made.keys.pairs["far", "speaker"].public.encode()
        made.register(made.far("speaker", speaker.shell.port, key))
        port = (await made.relays())["speaker"]
        await until(lambda: all(one.is_up for one in made.agent_links()))
        assert (await client.call_at(at(port), SAY, Say(text="hello"), timeout_s=60)).text == "hello"
        await speaker.shell.close(0)


async def test_what_is_offered_follows_the_registry_and_an_agent_that_is_back_has_its_port_again(
    tmp_path: Path,
) -> None:
    async with linked(tmp_path) as made, old() as one, old() as other:
        made.register(made.far("a", one.port), agent("here"))
        first = await made.relays()
        assert list(first) == ["a"]
        made.register(made.far("a", one.port, liveness="expired"))
        assert await made.relays() == {}
        await until(lambda: free(first["a"]))
        made.register(made.far("a", other.port))
        assert await made.relays() == first
        async with bare(first["a"]) as client:
            assert (await client.ask("moved"))["asked"] == "moved"
        made.register(made.far("a", one.port))
        assert await made.relays() == first
        assert made.changes() == [("opened", "a"), ("closed", "a"), ("opened", "a")]


async def test_an_agent_from_elsewhere_never_gets_the_number_of_one_that_is_at_home_here(tmp_path: Path) -> None:
    async with linked(tmp_path) as made:
        by_hand = choose_ports(Ports()).port
        at_home = msgspec.structs.replace(agent("home", port=by_hand), location="near")
        made.register(made.far("a", made.resting_port), made.far("b", by_hand), made.far("c", 7_003), at_home)
        found = await made.relays()
        assert set(found) == {"a", "b", "c"}
        assert not {made.resting_port, by_hand, 7_003} & set(found.values())
        assert free(made.resting_port)


async def test_of_more_agents_than_it_offers_it_keeps_the_ones_it_has_and_says_how_many_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.supervisor.relay.agents.OFFERED", 2)
    async with linked(tmp_path) as made:
        made.register(made.far("y", 1), made.far("z", 2))
        first = await made.relays()
        made.register(made.far("a", 3), made.far("b", 4), made.far("y", 1), made.far("z", 2))
        assert await made.relays() == first
        assert list(made.near.lacks.values()) == ["2 agents of other hosts are not offered here: the relay offers 2"]
        made.register(made.far("a", 3), made.far("b", 4), made.far("z", 2))
        assert set(await made.relays()) == {"a", "z"}
        made.register(made.far("a", 3), made.far("b", 4))
        assert set(await made.relays()) == {"a", "b"}
        assert made.near.lacks == {}


async def test_what_an_agent_lacks_goes_with_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise Unavailable("this process can open no more sockets")

    async with linked(tmp_path) as made:
        with monkeypatch.context() as patched:
            patched.setattr(Requests, "open", full)
            made.register(made.far("a", 1))
            assert list(made.near.lacks.values()) == [
                "a on far is not offered here: this process can open no more sockets"
            ]
            made.register()
            assert made.near.lacks == {}


async def test_an_agent_that_could_not_be_offered_is_once_that_can_be_though_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Unavailable("this process can open no more sockets")

    async with linked(tmp_path) as made:
        with monkeypatch.context() as patched:
            patched.setattr(Requests, "open", full)
            made.register(made.far("a", 1))
            assert made.near.lacks
        await until(lambda: "a" in made.relay.relayed())
        assert made.near.lacks == {}


async def test_nobody_of_the_agents_own_host_has_calls_passed_on(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, old() as agent_there:
        made.register(made.far("old", agent_there.port))
        async with native() as client:
            there = Found(Endpoint.tcp(FARS_LOOPBACK, made.supervisor.port))
            asked = api.Forward(agent_name="old", frames=[b'{"action":"x"}'])
            with pytest.raises(Exception, match="can be asked by itself from far"):
                await client.call_at(there, api.FORWARD, asked, timeout_s=60)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (api.Forward(agent_name="elsewhere", frames=[b"{}"]), NotFound),
        (api.Forward(agent_name="on_lan", frames=[b"{}"]), NotFound),
        (api.Forward(agent_name="old", frames=[b"x" * (api.MAX_FORWARDED_BYTES + 1)]), TooLarge),
    ],
)
async def test_a_call_is_passed_on_to_agents_of_that_loopback_alone(
    tmp_path: Path, asked: api.Forward, error: type[Exception]
) -> None:
    async with linked(tmp_path) as made, native() as client:
        made.registered["elsewhere"] = agent("elsewhere")
        made.registered["on_lan"] = msgspec.structs.replace(made.far("on_lan", 1), host="10.1.1.1")
        made.registered["old"] = made.far("old", 1)
        with pytest.raises(error):
            await client.call_at(at(made.supervisor.port), api.FORWARD, asked, timeout_s=60)


async def test_frames_in_no_dress_are_not_passed_on(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, native() as client:
        made.registered["old"] = made.far("old", 1)
        asked = api.Forward(agent_name="old", frames=[b"two", b"frames"])
        with pytest.raises(Exception, match="2 frames in no known dress"):
            await client.call_at(at(made.supervisor.port), api.FORWARD, asked, timeout_s=60)


async def test_a_relay_that_closes_ends_what_is_under_way(tmp_path: Path) -> None:
    async with linked(tmp_path) as made, old() as agent_there, bare(made.service.shell.port) as client:
        made.register(made.far("old", agent_there.port))
        call = asyncio.create_task(client.ask("say", wait_s=60.0))
        async with bare((await made.relays())["old"]) as other:
            silent = asyncio.create_task(other.ask("silence"))
            await until(lambda: made.relay._passages[1].under_way == 1)
            await until(lambda: made.supervisor.onion.in_flight == 1)
            await made.relay.close()
            assert (await call)["code"] == "interrupted"
            assert (await silent)["code"] in ("interrupted", Cancelled.code)
