"""The service as a process of its own: its door, its size, and kill -9 at seeded moments under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from common.api.core_orchestrator import SERVICE
from common.client.aio import AsyncClient
from common.errors import TandemError
from common.service.call import Call
from tests.lab.service_process import ServiceProcess, ask, ended_at_last, until
from tests.main_pc.core_orchestrator.fabric import Dict, core, directory, native_agent

ROOT = Path(__file__).resolve().parents[3]
SEEDS = range(int(os.environ.get("TANDEM_TEST_KILLS", "4")))
"""Each seed is a life under load that ends by kill -9."""

IDLE_RSS_BYTES = 45 * 2**20


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServiceProcess]:
    with ended_at_last(ServiceProcess("main_pc", "core_orchestrator", SERVICE, "mainpc", tmp_path)) as made:
        yield made


async def test_an_idle_service_is_small_answers_everywhere_and_stops_when_told(process: ServiceProcess) -> None:
    process.start()
    async with process.client() as client:
        await process.until_ready(client)
        assert process.child is not None
        for port in (process.ports[0], process.ports[2]):
            assert (await ask(port, "ping"))["service"] == SERVICE
        verbs = {verb["name"] for verb in (await ask(process.ports[0], "info"))["verbs"]}
        assert {"register_agent", "submit_request", "get_twin", "stats"} <= verbs
        if "coverage" not in sys.modules:
            assert psutil.Process(process.child.pid).memory_info().rss < IDLE_RSS_BYTES
    assert process.kill(signal.SIGTERM) == 0
    assert (process.home / "mainpc" / "core_orchestrator.db").exists()


async def test_a_second_start_says_who_holds_the_store(process: ServiceProcess) -> None:
    process.start()
    async with process.client() as client:
        await process.until_ready(client)
    second = await asyncio.to_thread(process.second_start)
    assert process.child is not None
    assert second.returncode == 1
    assert f"pid {process.child.pid}" in second.stderr


def test_a_door_that_does_not_exist_is_named() -> None:
    program = [sys.executable, "-m", "main_pc", "nothing"]
    answer = subprocess.run(program, check=False, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert answer.returncode == 2
    assert "nothing" in answer.stderr


@dataclass
class Story:
    """What was acknowledged, and what the agents were asked to do."""

    registered: set[str] = field(default_factory=set)
    submitted: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    done_once: dict[str, int] = field(default_factory=dict)

    async def safe(self, request: Dict, _call: Call) -> Dict:
        await asyncio.sleep(0)
        return {"result": request["data"]}

    async def once(self, request: Dict, _call: Call) -> Dict:
        self.done_once[request["data"]] = self.done_once.get(request["data"], 0) + 1
        await asyncio.sleep(0)
        return {"result": request["data"]}


async def load(client: AsyncClient, story: Story, seed: int, worker: int) -> None:
    """Register and submit until cancelled; only what was answered counts."""
    number = 0
    while True:
        number += 1
        name = f"{seed}-{worker}-{number}"
        capability = "safe" if number % 2 else "once"
        fields = {"capability": capability, "data": name, "idempotency_key": name, "wait": number % 3 == 0}
        try:
            if number % 5 == 0:
                place = {"agent_name": name, "host": "127.0.0.1", "port": 9, "capabilities": ["nothing"]}
                await client.call(SERVICE, "register_agent", place, timeout_s=5.0)
                story.registered.add(name)
            answer = await client.call(SERVICE, "submit_request", fields, timeout_s=5.0)
            story.submitted[answer["request_id"]] = name
            story.keys[name] = answer["request_id"]
        except TandemError:
            await asyncio.sleep(0.02)


async def test_kill_9_at_any_moment_loses_nothing_acknowledged_and_every_wait_ends(process: ServiceProcess) -> None:
    story = Story()
    async with native_agent("a", safe=story.safe, once=story.once) as agent, process.client() as client:
        process.start()
        await process.until_ready(client)
        offer = {"capabilities": ["safe", "once"], "idempotent": ["safe"], "dress": "native"}
        place = {"agent_name": "a", "host": "127.0.0.1", "port": agent.port, **offer}
        await client.call(SERVICE, "register_agent", place)
        for seed in SEEDS:
            workers = [asyncio.create_task(load(client, story, seed, worker)) for worker in range(8)]
            await asyncio.sleep(random.Random(seed).uniform(0.05, 0.6))
            process.kill()
            process.start()
            await process.until_ready(client)
            await asyncio.sleep(0.1)
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await check(client, story, str(seed))
        await check(client, story)
    assert story.submitted
    assert max(story.done_once.values()) == 1


async def check(client: AsyncClient, story: Story, seed: str = "") -> None:
    """All that was acknowledged (in that seed's life) is there, and ends."""
    names = {agent["agent_name"] for agent in (await client.call(SERVICE, "list_agents"))["agents"]}
    assert names >= story.registered
    for request_id, name in story.submitted.items():
        if not name.startswith(f"{seed}-" if seed else ""):
            continue
        async with asyncio.timeout(60):
            while (status := await client.call(SERVICE, "get_request", {"request_id": request_id}))["state"] in (
                "queued",
                "running",
            ):
                await asyncio.sleep(0.02)
        if status["state"] == "done":
            assert status["result"] == name
        else:
            assert (status["capability"], status["code"]) == ("once", "interrupted")
    for name, request_id in list(story.keys.items())[-20:]:
        capability = "safe" if int(name.rpartition("-")[2]) % 2 else "once"
        fields = {"capability": capability, "data": name, "idempotency_key": name}
        assert (await client.call(SERVICE, "submit_request", fields))["request_id"] == request_id


AGENT = """
import sys, time
from pathlib import Path
from tandem import Agent, verb

class Thinker(Agent):
    @verb(capability="safe", idempotent=True)
    def think(self, data: str) -> str:
        begun = Path(sys.argv[1])
        if not begun.exists():
            begun.touch()
            time.sleep(60)
        return data.upper()

    @verb(capability="once")
    def act(self, data: str) -> str:
        Path(sys.argv[1]).touch()
        time.sleep(60)

Thinker("thinker").run()
"""


def start_agent(folder: Path, services: str) -> subprocess.Popen[bytes]:
    told = {"TANDEM_HOME": str(folder), "TANDEM_HOST": "mainpc", "TANDEM_SERVICES": services}
    program = [sys.executable, "-c", AGENT, str(folder / "begun")]
    return subprocess.Popen(program, cwd=ROOT, env=os.environ | told, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(("capability", "state"), [("safe", "done"), ("once", "failed")])
async def test_an_agent_killed_midway_returns_and_does_again_only_what_is_safe(
    tmp_path: Path, capability: str, state: str
) -> None:
    async with core() as hub:
        services = directory(CoreOrchestrator=(hub.shell.port, hub.shell.events_port)).render()
        first = start_agent(tmp_path, services)
        try:
            await until(lambda: hub.call("list_agents"), lambda reply: bool(reply["agents"]), 20)
            request = await hub.submit(capability, data="x", wait=False, deadline_s=60)
            await until(lambda: asyncio.to_thread((tmp_path / "begun").exists), bool)
        finally:
            first.kill()
            first.wait()
        second = start_agent(tmp_path, services)
        try:
            ended = await hub.until_state(request["request_id"], "done", "failed", within_s=30)
        finally:
            second.kill()
            second.wait()
        assert (ended["state"], ended["agent_name"]) == (state, "thinker")
        assert (ended["result"], ended["code"]) == (("X", "") if state == "done" else (None, "interrupted"))
