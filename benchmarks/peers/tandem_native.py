"""Tandem: the whole onion of a service shell called by the asynchronous client, typed structs both ways."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, Final

from benchmarks.asking import crowd, timed_calls
from benchmarks.peer import PAYLOAD, Announce
from common.api.words import Access, Message, Verb
from common.client.aio import AsyncClient
from common.client.directory import Directory, Place
from common.client.opening import open_async_client
from common.errors import TandemError
from common.service.call import Call
from common.service.loop import run
from common.service.shell import Shell, ShellSettings
from common.transport.sockets import Endpoint

SERVICE: Final = "Echo"


class Echo(Message, frozen=True):
    """A text, there and back."""

    text: str


ECHO: Final = Verb("echo", Echo, Echo, Access.READ, summary="what you said")
REQUEST: Final = Echo(text=PAYLOAD.decode("ascii"))


def echo(request: Echo, call: Call) -> Echo:
    return request


def service(**settings: Any) -> Shell:
    """A shell as every service has it, with its events and its health port; made on the running loop."""
    shell = Shell(ShellSettings(SERVICE, "bench", 0, events_port=0, health_port=0, **settings))
    shell.handle(ECHO, echo)
    return shell


def client_of(endpoint: Endpoint) -> AsyncClient:
    return open_async_client(directory=Directory({SERVICE: Place(endpoint)}))


class Native:
    """Calls are not repeated by the client, so that a refusal is an error here."""

    def endpoint(self, port: int) -> Endpoint:
        return Endpoint.tcp("127.0.0.1", port)

    def serve(self, announce: Announce) -> None:
        run(self._serve(announce))

    async def _serve(self, announce: Announce) -> None:
        shell = service()
        await shell.open()
        announce(shell.port)
        await shell.serve()

    def sequential(self, port: int, calls: int) -> list[float]:
        return run(self._sequential(port, calls))

    async def _sequential(self, port: int, calls: int) -> list[float]:
        async with client_of(self.endpoint(port)) as client:
            return await timed_calls(lambda: client.call(SERVICE, ECHO, REQUEST, idempotent=False), calls)

    def pipelined(self, port: int, calls: int, in_flight: int) -> float:
        return run(self._pipelined(port, calls, in_flight))

    async def _pipelined(self, port: int, calls: int, in_flight: int) -> float:
        async with client_of(self.endpoint(port)) as client:
            await client.call(SERVICE, ECHO, REQUEST)
            began = perf_counter()
            await crowd(lambda: client.call(SERVICE, ECHO, REQUEST, idempotent=False), calls, in_flight)
            return perf_counter() - began

    def flood(self, port: int, in_flight: int) -> None:
        """Keeps `in_flight` calls under way until it is killed; its own refusals do not stop it."""
        run(self._flood(port, in_flight))

    async def _flood(self, port: int, in_flight: int) -> None:
        async with client_of(self.endpoint(port)) as client:
            await asyncio.gather(*(self._insist(client) for _ in range(in_flight)))

    async def _insist(self, client: AsyncClient) -> None:
        while True:
            try:
                await client.call(SERVICE, ECHO, REQUEST, idempotent=False)
            except TandemError:
                await asyncio.sleep(0)


PEER = Native()
