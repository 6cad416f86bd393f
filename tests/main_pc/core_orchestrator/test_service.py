from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
import zmq

from common.api.core_orchestrator import AGENTS_CHANGED, SERVICE, VERBS
from common.api.words import Cursor
from common.client.following import Event
from common.errors import Conflict, NotFound, StorageUnavailable
from common.service.shell import ShellSettings
from common.store.memory import MemoryStore
from main_pc.core_orchestrator.service import CoreOrchestrator
from tests.lab.service_process import ask, until
from tests.main_pc.core_orchestrator.fabric import core, directory

AGENT = {"agent_name": "a", "host": "localhost", "port": 5601, "capabilities": ["text", "sum"]}


async def test_a_bare_req_client_registers_finds_and_removes_an_agent() -> None:
    async with core() as hub:
        port = hub.shell.port
        registered = await ask(port, "register_agent", **AGENT, health_check_port=5602, metadata={"v": 1}, ttl_s=30)
        assert registered == {"status": "success", "boot": hub.shell.boot}
        assert (await ask(port, "heartbeat", agent_name="a"))["boot"] == hub.shell.boot
        endpoint = await ask(port, "get_agent_endpoint", agent_name="a")
        assert (endpoint["host"], endpoint["port"], endpoint["health_check_port"]) == ("127.0.0.1", 5601, 5602)
        assert (endpoint["capabilities"], endpoint["liveness"]) == (["text", "sum"], "alive")
        listed = await ask(port, "list_agents")
        assert [agent["agent_name"] for agent in listed["agents"]] == ["a"]
        assert listed["as_of"]["seq"] == 1
        assert listed["agents"][0]["location"] == "mainpc"
        assert (await ask(port, "find_agents", capability="nothing"))["agents"] == []
        assert (await ask(port, "deregister_agent", agent_name="a")) == {"status": "success"}
        gone = await ask(port, "get_agent_endpoint", agent_name="a")
        assert (gone["status"], gone["code"], gone["retryable"]) == ("error", "not_found", False)
        assert (await ask(port, "heartbeat", agent_name="a"))["code"] == "not_found"


@pytest.mark.parametrize(
    ("verb", "fields", "told"),
    [
        ("register_agent", {"agent_name": "a", "host": "h", "port": 70_000, "capabilities": []}, "$.port"),
        ("register_agent", {"agent_name": "a", "host": "h", "port": 1}, "capabilities"),
        ("register_agent", AGENT | {"metadata": {"n": 2**60}}, "$.metadata.n"),
        ("submit_request", {"data": "x"}, "names 0"),
        ("submit_request", {"type": "text", "priority": 101}, "$.priority"),
        ("get_history", {"metric": "m", "points": 61}, "$.points"),
        ("get_twin", {"part": "nothing"}, "$.part"),
    ],
)
async def test_a_bad_request_is_one_error_that_names_its_place(verb: str, fields: dict[str, Any], told: str) -> None:
    async with core() as hub:
        answer = await ask(hub.shell.port, verb, **fields)
        assert (answer["status"], answer["code"]) == ("error", "bad_request")
        assert told in answer["message"]


async def test_the_healthy_come_first_and_silence_is_told() -> None:
    async with core() as hub:
        await hub.register("fragile", 1, "text", ttl_s=0.2)
        await hub.register("steady", 2, "text", ttl_s=60)
        await hub.register("unpromised", 3, "text")
        found = await until(
            lambda: hub.call("find_agents", capability="text"),
            lambda reply: reply["agents"][-1]["liveness"] == "expired",
        )
        assert [agent["agent_name"] for agent in found["agents"]] == ["steady", "unpromised", "fragile"]
        await hub.call("heartbeat", agent_name="fragile")
        epoch = hub.shell.publisher.cursor(AGENTS_CHANGED.name).epoch
        past = await hub.call("events_since", topic=AGENTS_CHANGED.name, epoch=epoch, seq=0)
        changes = [event["event"]["change"] for event in past["events"] if event["entity"] == "fragile"]
        assert changes == ["registered", "suspect", "expired", "revived"]


async def test_a_subscriber_from_a_lists_as_of_hears_every_change_once() -> None:
    async with core() as hub:
        await hub.register("a", 1, "text")
        as_of = (await hub.client.call(SERVICE, "list_agents"))["as_of"]
        since = {AGENTS_CHANGED.name: Cursor(**as_of)}
        heard: list[str] = []
        stream = hub.client.events(SERVICE, [AGENTS_CHANGED.name], since)
        await hub.register("a", 2, "text")
        await hub.call("deregister_agent", agent_name="a")
        async with asyncio.timeout(60):
            async for notice in stream:
                assert isinstance(notice, Event)
                heard.append(notice.body.decode().partition('"change":"')[2].partition('"')[0])
                if heard[-1] == "deregistered":
                    break
        await stream.aclose()  # type: ignore[attr-defined]
        assert heard == ["moved", "deregistered"]


async def test_registrations_outlive_the_service_and_a_new_boot_tells_agents_to_register_again() -> None:
    tables: dict[str, dict[str, bytes]] = {}
    async with core(MemoryStore(tables)) as hub:
        before = await hub.register("a", 1, "text")
    async with core(MemoryStore(tables)) as hub:
        assert (await hub.call("list_agents"))["agents"][0]["agent_name"] == "a"
        assert "a/registration" in (await hub.call("get_twin", part="agents"))["parts"]["agents"]
        assert (await hub.call("heartbeat", agent_name="a"))["boot"] != before["boot"]


async def test_the_twin_shows_own_facts_and_heartbeats_become_metrics() -> None:
    async with core() as hub:
        await hub.register("a", 1, "text", ttl_s=60)
        await ask(hub.shell.port, "heartbeat", agent_name="a", load=2.0, metrics={"tokens": 7})
        twin = await hub.call("get_twin")
        fact = twin["parts"]["agents"]["a/registration"]
        assert (fact["source"], fact["value"]["agent_name"]) == (SERVICE, "a")
        assert set(twin["parts"]) == {"hosts", "services", "agents", "cards", "leases", "requests"}
        metrics = (await hub.call("get_metrics", prefix="agents.a."))["metrics"]
        assert {name: field["value"] for name, field in metrics.items()} == {"agents.a.load": 2.0, "agents.a.tokens": 7}
        points = (await hub.call("get_history", metric="agents.a.tokens"))["points"]
        assert [point["value"] for point in points] == [7]
        with pytest.raises(NotFound):
            await hub.call("get_history", metric="agents.b.tokens")


async def test_a_full_disk_refuses_every_change_keeps_what_was_acknowledged_and_recovers() -> None:
    store = MemoryStore()
    async with core(store) as hub:
        await hub.register("kept", 1, "text", ttl_s=60)
        kept = await hub.submit("text", wait=False, deadline_s=600)
        store.failure = StorageUnavailable("memory: is full; free space")
        for verb, fields in (
            ("register_agent", AGENT),
            ("deregister_agent", {"agent_name": "kept"}),
            ("submit_request", {"type": "text"}),
            ("cancel_request", {"request_id": kept["request_id"]}),
        ):
            answer = await ask(hub.shell.port, verb, **fields)
            assert (answer["code"], answer["retryable"]) == ("storage_unavailable", True), verb
        assert (await hub.call("heartbeat", agent_name="kept"))["boot"] == hub.shell.boot
        health = await hub.call("health_check")
        assert (health["status"], health["ready"], health["reasons"]) == (
            "degraded",
            True,
            ["memory: is full; free space"],
        )
        hub.shell.journal.probe()
        assert (await hub.call("health_check"))["status"] == "degraded"
        store.failure = None
        await until(lambda: hub.call("health_check"), lambda health: health["status"] == "ok")
        assert [agent["agent_name"] for agent in (await hub.call("list_agents"))["agents"]] == ["kept"]
        assert (await hub.call("get_request", request_id=kept["request_id"]))["state"] in ("queued", "running")
        assert (await ask(hub.shell.port, "register_agent", **AGENT))["status"] == "success"


async def test_a_port_that_is_taken_and_a_store_that_cannot_be_read_end_the_start() -> None:
    async with core() as hub:
        taken = ShellSettings(SERVICE, "mainpc", hub.shell.port)
        with pytest.raises(Conflict, match="taken by another process"):
            await CoreOrchestrator(taken, directory(), MemoryStore()).open()
    store = MemoryStore()
    store.failure = StorageUnavailable("memory: cannot be read")
    with pytest.raises(StorageUnavailable, match="cannot be read"):
        await CoreOrchestrator(ShellSettings(SERVICE, "mainpc", 0), directory(), store).open()


ODD: list[Any] = [
    None,
    True,
    -1,
    2**53,
    1.5,
    "",
    "text",
    "a" * 200,
    "\ud7ff",
    [],
    ["text"],
    {},
    {"": {"a": [1]}},
    [[[]]],
]
FIELDS = (
    "agent_name", "host", "port", "capabilities", "metadata", "ttl_s", "dress", "verbs", "idempotent", "location", "pid",
    "type", "capability", "data", "audio_data", "params", "priority", "deadline_s", "idempotency_key", "wait", "wait_s",
    "request_id", "part", "prefix", "metric", "points", "load", "metrics", "_deadline_ms", "_id",
)  # fmt: skip


async def test_odd_messages_to_every_verb_get_one_answer_each_and_none_is_a_bug_of_ours() -> None:
    rng = random.Random(7)
    verbs = [verb.name for verb in VERBS]
    messages = [
        {"action": rng.choice(verbs), **{name: rng.choice(ODD) for name in rng.sample(FIELDS, rng.randrange(8))}}
        for _ in range(1_500)
    ]
    good = {"agent_name": "a", "host": "h", "port": 1, "capabilities": ["text"], "capability": "text", "wait": False}
    messages += [{"action": rng.choice(verbs), **good, rng.choice(FIELDS): rng.choice(ODD)} for _ in range(500)]
    async with core() as hub:
        codes = await asyncio.to_thread(_answers, hub.shell.port, messages)
        assert len(codes) == len(messages)
        assert codes.count("internal") == 0
        assert {"success", "bad_request", "not_found"} <= set(codes)
        assert (await hub.call("health_check"))["status"] == "ok"


def _answers(port: int, messages: list[dict[str, Any]]) -> list[str]:
    """The code, or `success`, of each message's answer, asked by one bare REQ client."""
    codes = []
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 60_000)
        socket.connect(f"tcp://127.0.0.1:{port}")
        for message in messages:
            socket.send(json.dumps(message).encode())
            answer = json.loads(socket.recv())
            codes.append(answer.get("code") or answer["status"])
    return codes
