"""A service's life: its ports, its health, what it shows of itself, and its end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import zmq

from common.api import basic
from common.errors import Conflict, Unavailable
from common.service.shell import Shell, ShellSettings
from tests.common.service.lab import NOTED, OTHER, Service, peer, service, until


def fetch(port: int, path: str) -> tuple[int, bytes]:
    """GET from a health port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


async def test_ports_nought_are_chosen_by_the_system() -> None:
    async with service() as lab:
        ports = {lab.shell.port, lab.shell.events_port, lab.shell.health_port}
        assert len(ports) == 3
        assert 0 not in ports


async def test_a_process_may_do_without_events_and_health_ports() -> None:
    async with service(events_port=None, health_port=None) as lab, peer(lab.shell.port) as caller:
        assert (lab.shell.events_port, lab.shell.health_port) == (0, 0)
        assert (await caller.plain("write", key="a"))["status"] == "success"
        assert (await caller.plain("stats"))["counters"]["events"] == 0


@pytest.mark.parametrize("taken", ["port", "events_port", "health_port"])
async def test_a_taken_port_is_a_conflict_and_nothing_stays_open(taken: str) -> None:
    async with service() as lab:
        wanted = {"port": 0, "events_port": 0, "health_port": 0} | {taken: getattr(lab.shell, taken)}
        second = Shell(ShellSettings("Second", "mainpc", **wanted))
        with pytest.raises(Conflict, match="taken"):
            await second.open()
        assert second.phase == "stopped"
        assert second.context.closed


async def test_an_address_of_another_host_is_unavailable() -> None:
    shell = Shell(ShellSettings("Away", "mainpc", 0, addresses=("203.0.113.7",)))
    with pytest.raises(Unavailable, match=r"cannot listen on 203\.0\.113\.7"):
        await shell.open()


async def test_a_process_is_not_ready_until_it_says_so() -> None:
    shell = Shell(ShellSettings("Slow", "mainpc", 0, health_port=0))
    await shell.open(ready=False)
    try:
        async with peer(shell.port) as caller:
            health = await caller.plain("health_check")
            assert (health["phase"], health["ready"]) == ("starting", False)
            assert (await asyncio.to_thread(fetch, shell.health_port, "/health"))[0] == 503
            shell.set_ready()
            assert (await caller.plain("health_check"))["ready"]
            assert (await asyncio.to_thread(fetch, shell.health_port, "/health"))[0] == 200
    finally:
        await shell.close()


async def test_boot_tells_one_life_from_the_next() -> None:
    async with service() as one, service() as other:
        assert one.shell.boot != other.shell.boot


async def test_health_is_told_while_the_main_loop_is_stuck() -> None:
    async with service() as lab:
        with ThreadPoolExecutor(1) as asker:
            body = asker.submit(
                _ask_until, lab.shell.health_port, "degraded"
            ).result()  # the main loop is stuck in here
            assert "main loop late" in body["reasons"][0]
            assert (await asyncio.wrap_future(asker.submit(_ask_until, lab.shell.health_port, "ok")))["status"] == "ok"


def _ask_until(port: int, status: str) -> dict[str, Any]:
    last = time.monotonic() + 60
    while True:
        body = dict(json.loads(fetch(port, "/health")[1]))
        if body["status"] == status:
            return body
        assert time.monotonic() < last, body
        time.sleep(0.05)


async def test_metrics_count_every_request_refusals_included() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        await caller.plain("echo", text="a")
        await caller.plain("echo", text=7)
        await caller.plain("nothing")
        await caller.ask(b"garbage")
        text = (await asyncio.to_thread(fetch, lab.shell.health_port, "/metrics"))[1].decode()
        assert 'tandem_requests_total{outcome="success",verb="echo"} 1.0' in text
        assert 'tandem_requests_total{outcome="bad_request",verb="echo"} 1.0' in text
        assert 'tandem_requests_total{outcome="unknown_verb",verb="unroutable"} 1.0' in text
        assert 'tandem_requests_total{outcome="bad_request",verb="unroutable"} 1.0' in text
        assert "tandem_service_ready 1.0" in text
        assert "tandem_service_calls_waiting 0.0" in text
        for name in ("replies_undelivered", "commits", "commits_failed", "events"):
            assert f"# TYPE tandem_service_{name}_total counter" in text


async def test_stats_show_each_verb_the_breakers_and_the_counters() -> None:
    async with service() as lab, peer(lab.shell.port) as caller:
        breaker = basic.BreakerStats(endpoint="tcp://x", state="open", calls=1, failures=1, slow=0, opened=1)
        lab.shell.breakers = lambda: [breaker]
        await caller.plain("write", key="a")
        await caller.plain("fail", text="conflict")
        stats = msgspec.convert(await caller.plain("stats"), basic.Stats)
        assert stats.verbs["write"].count == 1
        assert stats.verbs["fail"].last_error == "conflict: as asked"
        assert stats.breakers == [breaker]
        assert stats.counters["commits"] == 1
        assert stats.counters["events"] >= 1
        text = (await asyncio.to_thread(fetch, lab.shell.health_port, "/metrics"))[1].decode()
        assert 'tandem_breaker_state{endpoint="tcp://x"} 2.0' in text


async def test_info_lists_every_verb_with_schemas_that_are_schemas() -> None:
    async with service(metadata={"model": "m"}) as lab, peer(lab.shell.port) as caller:
        told = await caller.plain("info")
        info = msgspec.convert(told, basic.Info)
        verbs = {verb.name: verb for verb in info.verbs}
        assert {"ping", "health_check", "info", "stats", "events_since", "echo", "write"} <= set(verbs)
        assert (verbs["write"].idempotent, verbs["count"].streams, verbs["read"].access) == (False, True, "read")
        assert [topic.name for topic in info.topics] == ["noted", "other"]
        assert (info.metadata, info.protocol) == ({"model": "m"}, 1)
        for verb in info.verbs:
            for schema in (verb.request, verb.reply):
                assert _resolved(schema, schema)["type"] == "object"
        echo = _resolved(verbs["echo"].request, verbs["echo"].request)
        assert echo["properties"]["data"]["contentEncoding"] == "base64"


def _resolved(schema: dict, root: dict) -> dict:  # type: ignore[type-arg]
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


async def test_events_leave_with_their_numbers_and_beats_tell_the_last_ones() -> None:
    async with service() as lab, peer(lab.shell.port) as caller, peer(lab.shell.events_port, zmq.SUB) as listener:
        listener.socket.setsockopt(zmq.SUBSCRIBE, b"noted")
        listener.socket.setsockopt(zmq.SUBSCRIBE, b"beat")
        listener.socket.setsockopt(zmq.SUBSCRIBE, b"\xffmark")
        while await listener.receive() != [b"\xffmark"]:
            pass
        await caller.plain("write", key="a")
        topic, head, body = await listener.receive()
        assert topic == b"noted"
        header = json.loads(head)
        assert (header["seq"], header["entity"], json.loads(body)) == (1, "a", {"key": "a"})
        beat = (b"", b"", b"")
        while beat[0] != b"beat":
            beat = tuple(await listener.receive())
        cursors = json.loads(beat[2])["last"]
        assert cursors == {"noted": {"epoch": header["epoch"], "seq": 1}, "other": {"epoch": header["epoch"], "seq": 0}}
        past = await caller.plain("events_since", topic="noted", epoch=header["epoch"], seq=0)
        assert past["events"] == [{"seq": 1, "at": header["at"], "entity": "a", "event": {"key": "a"}}]


async def test_a_published_port_answers_nothing() -> None:
    async with service() as lab, peer(lab.shell.events_port, zmq.SUB) as listener, peer(lab.shell.port) as caller:
        listener.socket.setsockopt(zmq.SUBSCRIBE, b"beat")
        listener.socket.setsockopt(zmq.SUBSCRIBE, b"\xffmark")
        while await listener.receive() != [b"\xffmark"]:
            pass
        assert (await caller.plain("ping"))["status"] == "ok"


async def test_work_done_now_and_then_goes_on_after_it_failed(caplog: pytest.LogCaptureFixture) -> None:
    async with service() as lab:
        turns = 0

        def work() -> None:
            nonlocal turns
            turns += 1
            if turns == 1:
                raise RuntimeError("once")

        lab.shell.every(0.001, work)
        await until(lambda: turns > 2)
    assert "the work done every 0.001 s failed" in caplog.text


async def test_work_beside_the_calls_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise RuntimeError("beside")

    with caplog.at_level(logging.ERROR):
        async with service() as lab:
            lab.shell.spawn(fails(), "the work")
            await until(lambda: "the work ended with an error" in caplog.text)


async def test_a_process_told_to_stop_drains_and_closes_once() -> None:
    shell = Shell(ShellSettings("Brief", "mainpc", 0, events_port=0, health_port=0), (NOTED, OTHER))
    Service(shell)
    await shell.open()
    serving = asyncio.create_task(shell.serve())
    async with peer(shell.port) as caller:
        await caller.plain("write", key="a")
    shell.stop()
    await serving
    assert shell.phase == "stopped"
    assert shell.context.closed
    await shell.close()
