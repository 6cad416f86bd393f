"""What the relays of all hosts offer, as their supervisors tell it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.api import relays as api
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.client.directory import Place
from common.client.settings import at_own_pace
from common.registry.location import Relayed
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.telemetry.system_clock import SystemClock, system_rng
from common.transport.sockets import Endpoint
from main_pc.core_orchestrator.relays import Relays
from tests.common.supervisor.lives import until
from tests.lab.nowhere import alone


class Supervisor:
    """A supervisor whose relay offers what it is told."""

    def __init__(self, host: str, ports: tuple[int, int] = (0, 0)) -> None:
        self.host = host
        self.shell = Shell(ShellSettings("Supervisor", host, *ports), api.TOPICS)
        self.offered: dict[str, api.Relay] = {}
        self.shell.handle(api.LIST_RELAYS, self._list)

    def _list(self, _asked: api.ListRelays, _call: Call) -> api.Relays:
        as_of = self.shell.publisher.cursor(api.RELAYS_CHANGED.name)
        return api.Relays(host=self.host, relays=list(self.offered.values()), as_of=as_of)

    def tell(self, change: str, name: str, port: int) -> None:
        relay = api.Relay(agent_name=name, host="elsewhere", port=port, events_port=port + 1)
        self.shell.publisher.publish(api.RELAYS_CHANGED, name, api.RelayChanged(change=change, relay=relay))  # type: ignore[arg-type]

    @property
    def ports(self) -> tuple[int, int]:
        return self.shell.port, self.shell.events_port


@asynccontextmanager
async def supervisor(host: str, ports: tuple[int, int] = (0, 0)) -> AsyncIterator[Supervisor]:
    made = Supervisor(host, ports)
    await made.shell.open()
    try:
        yield made
    finally:
        await made.shell.close(0)


@asynccontextmanager
async def following(*supervisors: Supervisor) -> AsyncIterator[Relays]:
    places = {
        f"Supervisor/{one.host}": Place(
            Endpoint.tcp("127.0.0.1", one.shell.port), Endpoint.tcp("127.0.0.1", one.shell.events_port)
        )
        for one in supervisors
    }
    directory = alone(places)
    relays, tasks = Relays(directory), []
    async with AsyncClient(directory, SystemClock(), system_rng(), at_own_pace()) as client:
        relays.follow(client, lambda work, name: tasks.append(asyncio.create_task(work, name=name)))
        try:
            yield relays
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_each_hosts_relays_are_known_and_followed() -> None:
    async with supervisor("mainpc") as one, supervisor("pc2") as other:
        one.offered["a"] = api.Relay(agent_name="a", host="pc2", port=10, events_port=11)
        other.offered["a"] = api.Relay(agent_name="a", host="third", port=20)
        async with following(one, other) as relays:
            await until(lambda: len(relays.known) == 2)
            assert relays.known == {("mainpc", "a"): Relayed(10, 0, 11), ("pc2", "a"): Relayed(20, 0, 0)}
            one.tell("moved", "a", 30)
            one.tell("opened", "b", 40)
            other.tell("closed", "a", 20)
            other.tell("closed", "never heard of", 1)
            await until(lambda: set(relays.known) == {("mainpc", "a"), ("mainpc", "b")})
            assert relays.known["mainpc", "a"] == Relayed(30, 0, 31)


async def test_a_supervisor_that_is_away_keeps_its_word_and_one_that_is_back_gives_a_new_one() -> None:
    async with supervisor("mainpc") as one:
        one.offered["a"] = api.Relay(agent_name="a", host="pc2", port=10)
        async with following(one) as relays:
            await until(lambda: relays.known)
            ports = one.ports
            await one.shell.close(0)
            assert relays.known == {("mainpc", "a"): Relayed(10)}
            async with supervisor("mainpc", ports) as back:
                back.offered["z"] = api.Relay(agent_name="z", host="pc2", port=12)
                await until(lambda: set(relays.known) == {("mainpc", "z")})


async def test_an_event_that_cannot_be_read_is_passed_over() -> None:
    async with supervisor("mainpc") as one:
        one.offered["a"] = api.Relay(agent_name="a", host="pc2", port=10)
        async with following(one) as relays:
            await until(lambda: relays.known)
            one.shell.publisher.publish(api.RELAYS_CHANGED, "x", Empty())
            one.tell("opened", "b", 10)
            await until(lambda: len(relays.known) == 2)
