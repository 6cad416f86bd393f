from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import zmq
import zmq.asyncio

from common.client.probing import judge
from common.config.schema import HealthProbe, Ports
from common.config.units import Duration
from common.supervisor.instructions import Launched
from common.supervisor.launching import choose_ports
from common.supervisor.probing import Prober, stranger
from common.telemetry.system_clock import SystemClock
from common.transport import sockets


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    context = sockets.new_context()
    yield Prober(context, SystemClock())
    await asyncio.to_thread(context.term)


def at(port: int = 0, health_port: int = 0) -> Launched:
    return Launched("a", 1, 0.0, 1, 1, port, 0, health_port)


def probe(how: str, timeout_s: float = 5.0) -> HealthProbe:
    return HealthProbe(how, Duration(timeout_s))  # type: ignore[arg-type]


@asynccontextmanager
async def serving(answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer(writer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP 503 Service Unavailable"),
        (b"+PONG\r\n", "the answer is not HTTP"),
    ],
)
async def test_http_asks_for_the_status_alone(prober: Prober, head: bytes, reason: str) -> None:
    async with serving(lambda writer: writer.write(head)) as port:
        assert await prober.ask(probe("http"), at(health_port=port)) == reason


async def test_tcp_is_content_with_a_connection_to_the_health_port_or_the_port(prober: Prober) -> None:
    async with serving(lambda writer: None) as port:
        assert await prober.ask(probe("tcp"), at(health_port=port)) == ""
        assert await prober.ask(probe("tcp"), at(port=port)) == ""
    assert (await prober.ask(probe("tcp"), at(port=port))).startswith("no connection: ")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"status":"ok"}', ""),
        (b'{"status":"ok","ready":false,"reasons":["loading","slowly"]}', "loading; slowly"),
        (b'{"status":"error","error":"no such action"}', "no such action"),
        (b"pong", "the agent's reply is not a JSON object"),
    ],
)
async def test_zmq_takes_the_answer_of_any_bare_rep(prober: Prober, answer: bytes, reason: str) -> None:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.REP)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    asking = asyncio.create_task(prober.ask(probe("zmq"), at(health_port=port)))
    assert b'"action":"health_check"' in await socket.recv()
    await socket.send(answer)
    assert (await asking).startswith(reason)
    assert bool(await asking) == bool(reason)
    socket.close(0)
    context.term()


async def test_silence_and_absence_are_told_within_the_probes_time(prober: Prober) -> None:
    async with serving(lambda writer: None) as port:
        for how in ("http", "zmq"):
            said = await prober.ask(probe(how, 0.2), at(health_port=port))
            assert said.startswith(("no answer within 0.2 s", "health_check had no answer"))
    free = choose_ports(Ports()).port
    assert await prober.ask(probe("zmq"), at(health_port=free)) == f"nobody listens at tcp://127.0.0.1:{free}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"ready": True, "status": "degraded"}, ""),
        ({"status": "Healthy"}, ""),
        ({"ready": False, "status": "ok", "reasons": []}, "it says ok, not ready"),
        ({"status": "unhealthy", "reasons": "many"}, "it says unhealthy, not ready"),
        ({"pong": 1}, "it says nothing, not ready"),
        ({"ready": False, "reasons": ["x" * 1000]}, "x" * 200),
    ],
)
def test_ready_decides_where_it_is_said_and_status_where_it_is_not(answer: dict[str, object], reason: str) -> None:
    assert judge(answer) == reason


@pytest.mark.parametrize(("mark", "ready"), [("boot-1/a", True), ("", True), ("boot-1/b", False), ("boot-2/a", False)])
async def test_whoever_took_the_port_first_does_not_make_the_process_ready(
    prober: Prober, mark: str, ready: bool
) -> None:
    body = json.dumps({"status": "ok", "ready": True, "supervised": mark}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with serving(lambda writer: writer.write(head + body)) as port:
        launched = replace(at(health_port=port), mark="boot-1/a")
        reason = await prober.ask(probe("http"), launched)
    assert reason == ("" if ready else f"another process answers at its health port {port}: {mark}")
    assert stranger({"supervised": mark}, at()) == ""
