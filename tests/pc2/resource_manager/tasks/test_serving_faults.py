"""The task queue when the disk is full, when agents cannot be found, and when it has to stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.api.words import Cursor
from common.client.following import Event
from common.client.pursuit import Found
from common.errors import StorageUnavailable
from common.service.call import Call
from common.transport.sockets import Endpoint
from pc2.resource_manager.tasks import records
from tests.lab.full_store import FullStore
from tests.pc2.resource_manager.tasks.fabric import Dict, Gate, Queue, core, queue, task_agent, until


async def echo(asked: Dict, _call: Call) -> Dict:
    return {"result": asked.get("data")}


@asynccontextmanager
async def at_work_on_a_full_disk() -> AsyncIterator[tuple[Queue, FullStore, Gate, str]]:
    """A task is at its agent's gate when the disk turns out to be full; another is refused."""
    gate, store = Gate(), FullStore()
    async with core() as one, queue(one, store) as tasks, task_agent("slow", say=gate.work) as agent:
        await one.register("slow", agent.port, "say", dress="native")
        task_id = await tasks.submit("say", {"text": "hi"})
        await tasks.until_state(task_id, "running")
        store.full = True
        with pytest.raises(StorageUnavailable):
            await tasks.client.call(
                "ResourceManager", "submit_task", {"capability": "say"}, timeout_s=60.0, idempotent=False
            )
        yield tasks, store, gate, task_id


async def test_a_full_disk_takes_no_task_and_loses_no_answer_that_was_heard() -> None:
    async with at_work_on_a_full_disk() as (tasks, store, gate, task_id):
        gate.open.set()
        await until(lambda: _unreported(tasks), bool)
        assert (await tasks.get(task_id))["state"] == "running"
        store.full = False
        status = await tasks.until_state(task_id, "done")
        assert (status["result"], status["attempts"]) == ("hi", 1)
        assert len(gate.begun) == 1
        await until(lambda: _unreported(tasks), lambda left: not left)


async def test_while_tasks_are_loaded_anew_after_a_failed_commit_leases_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loading, may_end, load = threading.Event(), threading.Event(), records.load

    def slowly(*what: Any) -> None:
        loading.set()
        assert may_end.wait(60)
        load(*what)

    store = FullStore()
    async with queue(None, store) as tasks:
        task_id = await tasks.submit("say")
        monkeypatch.setattr(records, "load", slowly)
        store.full = True
        once: Dict = {"timeout_s": 60.0, "idempotent": False}
        with pytest.raises(StorageUnavailable):
            await tasks.client.call("ResourceManager", "submit_task", {"capability": "say"}, **once)
        store.full = False
        await until(lambda: asyncio.sleep(0, loading.is_set()), bool)
        with pytest.raises(StorageUnavailable) as refused:
            await tasks.client.call("ResourceManager", "get_task", {"task_id": task_id}, **once)
        assert refused.value.retryable
        assert (await tasks.call("list_leases"))["leases"] == []
        assert (await tasks.call("health_check"))["status"] == "degraded"
        may_end.set()
        monkeypatch.setattr(records, "load", load)
        listed = await until(lambda: asyncio.sleep(0, tasks.service._tasks._journal.able), bool)
        assert listed
        assert (await tasks.get(task_id))["state"] == "queued"
        assert await tasks.submit("say") != task_id


async def _unreported(tasks: Queue) -> int:
    return len(tasks.service._tasks._dispatching._unreported)


async def test_an_outcome_of_a_call_that_nobody_made_is_let_go() -> None:
    gate, store = Gate(), FullStore()
    async with core() as one, queue(one, store) as tasks, task_agent("slow", say=gate.work) as agent:
        await one.register("slow", agent.port, "say", dress="native")
        task_id = await tasks.submit("say")
        await tasks.until_state(task_id, "running")
        dispatching = tasks.service._tasks._dispatching
        dispatching._unreported["task-0", 1] = "of a call that nobody made"
        await until(lambda: _unreported(tasks), lambda left: not left)
        assert (await tasks.get(task_id))["state"] == "running"


async def test_a_task_that_a_breaker_held_back_is_done_once_its_agent_is_mended() -> None:
    is_mended = False

    async def broken(_asked: Dict, _call: Call) -> Dict:
        if not is_mended:
            raise RuntimeError("a bug")
        return {"result": "fine"}

    async with core() as one, queue(one) as tasks, task_agent("frail", say=broken) as agent:
        await one.register("frail", agent.port, "say", dress="native")
        for _ in range(10):
            await tasks.until_state(await tasks.submit("say", max_attempts=1), "dead")
        task_id = await tasks.submit("say", max_attempts=1)
        assert "the breaker is open for frail" in (await tasks.get(task_id))["reason"]
        is_mended = True
        assert (await tasks.until_state(task_id, "done"))["result"] == "fine"


async def test_while_nothing_can_be_committed_a_lost_agents_calls_are_heard_out() -> None:
    async with at_work_on_a_full_disk() as (tasks, store, gate, task_id):
        tasks.service._tasks._dispatching.agent_lost("slow")
        gate.open.set()
        store.full = False
        assert (await tasks.until_state(task_id, "done"))["attempts"] == 1


async def test_an_agent_to_which_no_way_leads_gets_nothing_until_one_does() -> None:
    async with core() as one, queue(one) as tasks, task_agent("far", say=echo) as agent:
        await one.register("far", agent.port, "say", dress="plain", location="the moon")
        task_id = await tasks.submit("say", "hi")
        await until(lambda: tasks.call("list_task_queues"), lambda told: told["queues"][0]["agents"] == 1)
        assert (await tasks.get(task_id))["state"] == "queued"
        await one.register("far", agent.port, "say", dress="native", location="pc2")
        assert (await tasks.until_state(task_id, "done"))["result"] == "hi"


async def test_an_agent_that_is_not_where_it_was_is_asked_for_anew() -> None:
    async with core() as one, queue(one) as tasks, task_agent("echo", say=echo) as agent:
        await one.register("echo", agent.port, "say", dress="native")
        await tasks.until_state(await tasks.submit("say"), "done")
        following = tasks.service._tasks._dispatching._following
        following._places["echo"] = Found(Endpoint.tcp("127.0.0.1", 1))
        status = await tasks.until_state(await tasks.submit("say", "hi"), "done")
        assert (status["result"], status["attempts"]) == ("hi", 1)
        assert following.place("echo").endpoint.address.endswith(f":{agent.port}")


async def test_an_agent_that_deregisters_finishes_its_task_and_gets_no_other() -> None:
    gate = Gate()
    async with core() as one, queue(one) as tasks, task_agent("slow", say=gate.work) as agent:
        await one.register("slow", agent.port, "say", dress="native")
        first = await tasks.submit("say", {"text": "hi"})
        await tasks.until_state(first, "running")
        await one.call("deregister_agent", agent_name="slow")
        await until(lambda: tasks.call("list_task_queues"), lambda told: told["queues"][0]["agents"] == 0)
        second = await tasks.submit("say")
        gate.open.set()
        assert (await tasks.until_state(first, "done"))["result"] == "hi"
        assert "no agent offers it" in (await tasks.get(second))["reason"]


async def test_agents_that_are_gone_from_the_list_are_forgotten_and_what_cannot_be_read_is_passed_over() -> None:
    async with core() as one, queue(one) as tasks, task_agent("echo", say=echo) as agent:
        await one.register("echo", agent.port, "say", dress="native")
        await tasks.until_state(await tasks.submit("say"), "done")
        following = tasks.service._tasks._dispatching._following
        following.take(Event("agents.changed", "echo", "", Cursor(epoch=1, seq=1), b"{"))
        assert following.roster.counts() == {"say": 1}
        await one.call("deregister_agent", agent_name="echo")
        await following.look()
        assert following.roster.counts() == {}
        assert following.reach("echo") is None


async def test_who_waits_for_a_task_is_answered_with_its_state_when_the_time_is_over_or_the_service_stops() -> None:
    async with queue(None) as tasks:
        task_id = await tasks.submit("say")
        assert (await tasks.call("get_task", task_id=task_id, wait_s=0.05))["state"] == "queued"
        waiting = asyncio.create_task(tasks.call("get_task", task_id=task_id, wait_s=9.0))
        also = asyncio.create_task(tasks.call("get_task", task_id=task_id, wait_s=9.0))
        await until(lambda: _staying(tasks), lambda staying: staying == 2)
        assert (await tasks.call("get_task", task_id=task_id, wait_s=0.05))["state"] == "queued"
        await tasks.service._tasks.finish(0.0)
        assert (await waiting)["state"] == (await also)["state"] == "queued"


async def _staying(tasks: Queue) -> int:
    return len(tasks.service._tasks._dispatching.staying)


async def test_more_tasks_than_a_turn_gives_away_all_reach_their_agents() -> None:
    async with core() as one, queue(one) as tasks, task_agent("fast", say=echo) as agent:
        ids = [await tasks.submit("say") for _ in range(150)]
        await one.register("fast", agent.port, "say", dress="native", metadata={"concurrency": 200})
        for task_id in ids:
            await tasks.until_state(task_id, "done")
