"""ResourceManager in a process of its own on a real store, killed under load: no acknowledged task is lost."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common.api import tasks as api
from common.api.tasks import SubmitTask
from common.client.aio import AsyncClient
from common.client.opening import open_async_client
from common.client.settings import ClientSettings
from common.errors import TandemError
from common.resilience.budget import RetrySettings
from common.service.call import Call
from tests.lab.service_process import ServiceProcess, ended_at_last
from tests.pc2.resource_manager.fabric import RM, Host
from tests.pc2.resource_manager.tasks.fabric import Core, Dict, Gate, core, places_of, task_agent, until
from tests.pc2.resource_manager.tasks.models import model_host

KILLS = 5
SEED = 23
CALLERS = 4


@asynccontextmanager
async def running(folder: Path, one: Core, *hosts: Host) -> AsyncIterator[tuple[ServiceProcess, AsyncClient]]:
    """ResourceManager's own process beside this CoreOrchestrator and these hosts, to its end by TERM; with a client."""
    process = ServiceProcess("pc2", "resource_manager", RM, "pc2", folder / "home")
    places = places_of(one, hosts, (RM, (process.ports[0], process.ports[1])))
    process.more["TANDEM_SERVICES"] = places.render()
    client = open_async_client(ClientSettings(retry=RetrySettings(attempts=1)), places)
    with ended_at_last(process):
        process.start()
        await process.until_ready(client)
        yield process, client
        await client.close()
        assert await asyncio.to_thread(process.kill, signal.SIGTERM) == 0


class Submitter:
    """Submits tasks, each repeated under its key until it is acknowledged."""

    def __init__(self, client: AsyncClient, name: int) -> None:
        self._client = client
        self._name = name
        self.acknowledged: dict[str, str] = {}

    async def work(self, over: asyncio.Event) -> None:
        number = 0
        while not over.is_set():
            number += 1
            key = f"order-{self._name}-{number}"
            asked = SubmitTask(capability="say", payload={"order": key}, idempotency_key=key, max_attempts=50)
            async with asyncio.timeout(60):
                while key not in self.acknowledged:
                    try:
                        done = await self._client.call(RM, api.SUBMIT_TASK, asked, timeout_s=5.0, idempotent=False)
                        self.acknowledged[key] = done.task_id
                    except TandemError:
                        await asyncio.sleep(0.02)


async def test_killed_under_load_it_loses_no_acknowledged_task_and_takes_none_twice(tmp_path: Path) -> None:
    rng, over, orders = random.Random(SEED), asyncio.Event(), dict[str, set[str]]()

    async def work(asked: Dict, _call: Call) -> Dict:
        orders.setdefault(asked["order"], set()).add(asked["task_id"])
        await asyncio.sleep(0.001)
        return {"result": asked["order"]}

    async with core() as one, task_agent("worker", say=work) as agent:
        await one.register("worker", agent.port, "say", dress="native", metadata={"concurrency": 8})
        async with running(tmp_path, one) as (process, client):
            submitters = [Submitter(client, name) for name in range(CALLERS)]
            working = [asyncio.create_task(each.work(over)) for each in submitters]
            for _ in range(KILLS):
                await process.until_ready(client)
                await asyncio.sleep(rng.uniform(0.1, 0.4))
                process.kill()
                process.start()
            await process.until_ready(client)
            over.set()
            await asyncio.gather(*working)

            acknowledged = {key: task_id for each in submitters for key, task_id in each.acknowledged.items()}
            assert len(acknowledged) > CALLERS * KILLS
            for key, task_id in acknowledged.items():
                status = await until(
                    lambda task_id=task_id: client.call(
                        RM, "get_task", {"task_id": task_id, "wait_s": 5.0}, timeout_s=60.0
                    ),
                    lambda status: status["state"] == "done",
                    30.0,
                )
                assert status["result"] == key
            assert {order: ids for order, ids in orders.items() if len(ids) > 1} == {}, "an order became two tasks"


async def test_a_task_that_ran_when_it_was_killed_runs_again_and_its_attempt_is_counted(tmp_path: Path) -> None:
    gate = Gate()
    async with core() as one, task_agent("worker", say=gate.work) as agent:
        await one.register("worker", agent.port, "say", dress="native", metadata={"concurrency": 8})
        async with running(tmp_path, one) as (process, client):
            asked = {"capability": "say", "payload": {"text": "hi"}}
            again = (await client.call(RM, "submit_task", asked))["task_id"]
            last = (await client.call(RM, "submit_task", asked | {"max_attempts": 1}))["task_id"]
            async with asyncio.timeout(60):
                while len(gate.begun) < 2:
                    await asyncio.sleep(0.005)
            process.kill()
            gate.open.set()
            process.start()
            await process.until_ready(client)

            status = await until(
                lambda: client.call(RM, "get_task", {"task_id": again}), lambda it: it["state"] == "done"
            )
            assert (status["attempts"], status["result"]) == (2, "hi")
            assert [each["attempt"] for each in gate.begun if each["task_id"] == again] == [1, 2]
            status = await until(
                lambda: client.call(RM, "get_task", {"task_id": last}), lambda it: it["state"] == "dead"
            )
            assert (status["code"], status["attempts"]) == ("interrupted", 1)


async def test_a_task_with_a_model_that_ran_when_it_was_killed_has_a_loan_anew_and_the_old_one_ends_by_itself(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with (
        core() as one,
        model_host(tmp_path, qwen=10) as pc2,
        task_agent("worker", say=gate.work) as agent,
    ):
        await one.register("worker", agent.port, "say", dress="native", location="pc2", metadata={"concurrency": 8})
        async with running(tmp_path, one, pc2) as (process, client):
            asked = {"capability": "say", "payload": {"text": "hi"}, "model": "qwen"}
            task_id = (await client.call(RM, "submit_task", asked))["task_id"]
            await gate.until_begun()
            (old,) = pc2.shares("qwen")
            assert (old.ttl_s, old.owner.pid) == (30.0, 0)
            process.kill()
            gate.open.set()
            process.start()
            await process.until_ready(client)

            status = await until(
                lambda: client.call(RM, "get_task", {"task_id": task_id}), lambda it: it["state"] == "done"
            )
            assert (status["attempts"], status["result"], status["model"]) == (2, "hi", "qwen")
            assert len(pc2.used) == 2
            assert [each["model"]["host"] for each in gate.begun] == ["pc2", "pc2"]
            assert {lease.lease_id for lease in pc2.live} <= {old.lease_id}
