"""The task verbs on real sockets with real agents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.api.tasks import LimitTasks
from common.errors import BadRequest, Conflict, IdempotencyMismatch, Internal, NotFound, Overloaded, TooLarge
from common.service.call import Call
from pc2.resource_manager.tasks.limits import Limits
from tests.main_pc.core_orchestrator.fabric import PlainAgent
from tests.pc2.resource_manager.tasks.fabric import QUICK, Dict, Gate, core, queue, task_agent, until


async def echo(asked: Dict, _call: Call) -> Dict:
    return {"result": asked}


async def test_a_task_is_done_by_an_agent_that_offers_its_capability() -> None:
    async with core() as one, queue(one) as tasks, task_agent("echo", say=echo) as agent:
        await one.register("echo", agent.port, "say", dress="native")
        task_id = await tasks.submit("say", {"text": "hi"}, name="greeting", metadata={"k": 1})
        status = await tasks.until_state(task_id, "done")
        assert status["result"] == {"text": "hi", "task_id": task_id, "request_id": task_id, "attempt": 1}
        assert (status["attempts"], status["agent_name"], status["name"]) == (1, "echo", "greeting")
        assert status["metadata"] == {"k": 1}
        assert status["queued_at"] <= status["started_at"] <= status["ended_at"] < status["kept_until"]


async def test_a_task_without_an_agent_waits_and_begins_when_one_comes() -> None:
    async with core() as one, queue(one) as tasks, task_agent("echo", say=echo) as agent:
        task_id = await tasks.submit("say", "hi")
        status = await until(lambda: tasks.get(task_id), lambda status: "no agent offers it" in status["reason"])
        assert status["state"] == "queued"
        await one.register("echo", agent.port, "say", dress="native")
        status = await tasks.call("get_task", task_id=task_id, wait_s=10.0)
        assert status["state"] == "done"
        assert status["result"]["data"] == "hi"


async def test_a_plain_agent_does_tasks_too() -> None:
    def answer(asked: Dict) -> Dict:
        return {"status": "success", "heard": asked["text"], "id": asked["task_id"]}

    with PlainAgent(answer) as agent:
        async with core() as one, queue(one) as tasks:
            await one.register("old", agent.port, "say")
            task_id = await tasks.submit("say", {"text": "hi"})
            status = await tasks.until_state(task_id, "done")
            assert status["result"] == {"heard": "hi", "id": task_id}


async def test_a_task_that_fails_is_tried_again_and_dies_in_the_end() -> None:
    async def fail(_asked: Dict, _call: Call) -> Dict:
        raise Internal("no luck")

    async with core() as one, queue(one) as tasks, task_agent("bad", say=fail) as agent:
        await one.register("bad", agent.port, "say", dress="native")
        task_id = await tasks.submit("say", max_attempts=2)
        status = await tasks.until_state(task_id, "dead")
        assert (status["attempts"], status["code"]) == (2, "internal")
        assert "2 attempts came to nothing; the last: bad: no luck" in status["error"]
        listed = await tasks.call("list_tasks", state="dead")
        assert [task["task_id"] for task in listed["tasks"]] == [task_id]
        assert listed["counts"] == {"dead": 1}


async def test_a_task_that_no_try_can_help_fails_at_once() -> None:
    async def refuse(_asked: Dict, _call: Call) -> Dict:
        raise BadRequest("not like this")

    async with core() as one, queue(one) as tasks, task_agent("picky", say=refuse) as agent:
        await one.register("picky", agent.port, "say", dress="native")
        status = await tasks.until_state(await tasks.submit("say"), "failed")
        assert (status["attempts"], status["code"], status["error"]) == (1, "bad_request", "picky: not like this")


async def test_a_dead_task_runs_anew_when_it_is_replayed() -> None:
    mended = asyncio.Event()

    async def work(asked: Dict, _call: Call) -> Dict:
        if not mended.is_set():
            raise Internal("broken")
        return {"result": asked["text"]}

    async with core() as one, queue(one) as tasks, task_agent("a", say=work) as agent:
        await one.register("a", agent.port, "say", dress="native")
        task_id = await tasks.submit("say", {"text": "hi"}, max_attempts=1)
        await tasks.until_state(task_id, "dead")
        mended.set()
        await tasks.call("replay_task", task_id=task_id)
        status = await tasks.until_state(task_id, "done")
        assert (status["result"], status["attempts"], status["replays"]) == ("hi", 1, 1)
        with pytest.raises(Conflict):
            await tasks.call("replay_task", task_id=task_id)


async def test_cancelling_a_running_task_reaches_its_agent() -> None:
    gate = Gate()
    async with core() as one, queue(one) as tasks, task_agent("slow", say=gate.work) as agent:
        await one.register("slow", agent.port, "say", dress="native")
        task_id = await tasks.submit("say")
        await gate.until_begun()
        status = await tasks.call("cancel_task", task_id=task_id)
        assert status["state"] == "cancelled"
        async with asyncio.timeout(60):
            while not gate.withdrawn:
                await asyncio.sleep(0.005)
        assert (await tasks.call("cancel_task", task_id=task_id))["state"] == "cancelled"


async def test_what_an_agent_streams_is_the_tasks_progress() -> None:
    heard = asyncio.Event()

    async def work(_asked: Dict, call: Call) -> Dict:
        call.part({"item": {"done": 0.5}})
        await heard.wait()
        return {"result": "all"}

    async with core() as one, queue(one) as tasks, task_agent("a", say=work) as agent:
        await one.register("a", agent.port, "say", dress="native")
        task_id = await tasks.submit("say")
        status = await until(lambda: tasks.get(task_id), lambda status: status["progress"])
        assert (status["progress"], status["parts"], status["state"]) == ({"done": 0.5}, 1, "running")
        heard.set()
        assert (await tasks.until_state(task_id, "done"))["result"] == "all"


async def test_the_same_key_is_the_same_task_and_with_another_body_a_mismatch() -> None:
    async with queue(None) as tasks:
        first = await tasks.call("submit_task", capability="say", payload=1, idempotency_key="k")
        again = await tasks.call("submit_task", capability="say", payload=1, idempotency_key="k")
        assert (again["task_id"], first["duplicate"], again["duplicate"]) == (first["task_id"], False, True)
        with pytest.raises(IdempotencyMismatch):
            await tasks.call("submit_task", capability="say", payload=2, idempotency_key="k")


async def test_a_full_queue_sends_callers_away_for_a_while() -> None:
    async with queue(None, limits=Limits(queued=2, retry_after_ms=70, payload_bytes=1_024)) as tasks:
        await tasks.submit("say")
        await tasks.submit("say")
        with pytest.raises(Overloaded) as refused:
            await tasks.client.call(
                "ResourceManager", "submit_task", {"capability": "say"}, timeout_s=60.0, idempotent=False
            )
        assert refused.value.retry_after_ms == 70
        with pytest.raises(TooLarge, match="1024 are allowed"):
            await tasks.submit("sing", "x" * 2_000)


async def test_a_deadline_ends_a_task_that_waits_and_one_that_runs() -> None:
    gate = Gate()
    async with core() as one, queue(one) as tasks, task_agent("slow", say=gate.work) as agent:
        await one.register("slow", agent.port, "say", dress="native")
        waiting = await tasks.submit("nobody does this", deadline_s=0.1)
        running = await tasks.submit("say", deadline_s=2.0)
        await gate.until_begun()
        assert "it was queued" in (await tasks.until_state(waiting, "expired"))["error"]
        assert (await tasks.until_state(running, "expired"))["code"] == "deadline_exceeded"
        async with asyncio.timeout(60):
            while not gate.withdrawn:
                await asyncio.sleep(0.005)


async def test_one_attempt_may_take_no_longer_than_its_timeout() -> None:
    gate = Gate()
    async with core() as one, queue(one) as tasks, task_agent("slow", say=gate.work) as agent:
        await one.register("slow", agent.port, "say", dress="native")
        status = await tasks.until_state(await tasks.submit("say", timeout_s=0.1, max_attempts=2), "dead")
        assert (status["code"], status["attempts"]) == ("deadline_exceeded", 2)


async def test_a_delayed_task_begins_no_sooner() -> None:
    async with core() as one, queue(one) as tasks, task_agent("echo", say=echo) as agent:
        await one.register("echo", agent.port, "say", dress="native")
        task_id = await tasks.submit("say", delay_s=2.0)
        assert "it may begin at" in (await tasks.get(task_id))["reason"]
        status = await tasks.until_state(task_id, "done")
        assert status["started_at"] >= status["run_at"] or status["started_at"] > status["queued_at"]


async def test_a_limit_bounds_what_runs_at_a_time_and_nought_holds_a_capability_back() -> None:
    gate = Gate()
    async with core() as one, queue(one) as tasks, task_agent("slow", say=gate.work) as agent:
        await one.register("slow", agent.port, "say", dress="native", metadata={"concurrency": 8})
        service = tasks.service._tasks
        service._limit(LimitTasks(capability="say", running=1), None)  # type: ignore[arg-type]
        ids = [await tasks.submit("say") for _ in range(3)]
        await tasks.until_state(ids[0], "running")
        (line,) = (await tasks.call("list_task_queues"))["queues"]
        assert (line["queued"], line["running"], line["limit"], line["agents"]) == (2, 1, 1, 1)
        assert line["reason"] == "1 run; 1 may run at a time"
        service._limit(LimitTasks(capability="say"), None)  # type: ignore[arg-type]
        for task_id in ids:
            await tasks.until_state(task_id, "running")
        gate.open.set()
        for task_id in ids:
            await tasks.until_state(task_id, "done")


async def test_an_agent_that_is_replaced_midway_costs_an_attempt_and_its_successor_does_the_task() -> None:
    gate = Gate()
    async with (
        core() as one,
        queue(one) as tasks,
        task_agent("first", say=gate.work) as first,
        task_agent("second", sing=echo) as second,
    ):
        await one.register("a", first.port, "say", dress="native")
        task_id = await tasks.submit("say", {"text": "hi"})
        await tasks.until_state(task_id, "running")
        await one.register("a", second.port, "say", verbs={"say": "sing"}, dress="native")
        status = await tasks.until_state(task_id, "done")
        assert (status["agent_name"], status["attempts"], status["result"]["attempt"]) == ("a", 2, 2)
        assert "attempt 1 at a: a went away while it worked on this" in status["reason"]


async def test_an_agent_that_stops_gives_its_task_back_and_no_attempt_is_counted() -> None:
    gate = Gate()
    async with core() as one, queue(one) as tasks, task_agent("good", say=echo) as good:
        async with task_agent("stopping", say=gate.work) as stopping:
            await one.register("stopping", stopping.port, "say", dress="native")
            task_id = await tasks.submit("say")
            await gate.until_begun()
        await one.register("good", good.port, "say", dress="native")
        status = await tasks.until_state(task_id, "done")
        assert (status["agent_name"], status["attempts"]) == ("good", 1)


async def test_tasks_go_on_at_known_agents_while_core_orchestrator_is_away() -> None:
    async with task_agent("echo", say=echo) as agent:
        async with core() as one:
            stack = queue(one)
            tasks = await stack.__aenter__()
            await one.register("echo", agent.port, "say", dress="native")
            await tasks.until_state(await tasks.submit("say"), "done")
        try:
            await until(
                lambda: tasks.call("health_check"),
                lambda health: any("as last told" in lack for lack in health["lacks"]),
            )
            await tasks.until_state(await tasks.submit("say"), "done")
        finally:
            await stack.__aexit__(None, None, None)


async def test_an_unknown_task_is_not_found() -> None:
    async with queue(None) as tasks:
        for verb in ("get_task", "cancel_task", "replay_task"):
            with pytest.raises(NotFound, match="no task 'task-0' is known"):
                await tasks.call(verb, task_id="task-0")


async def test_metrics_show_the_lines_and_their_age() -> None:
    async with queue(None, limits=QUICK) as tasks:
        await tasks.submit("say")
        await until(lambda: _exposition(tasks), lambda text: 'tandem_tasks_queued{capability="say"} 1.0' in text)
        assert "tandem_tasks_oldest_seconds" in await _exposition(tasks)


async def _exposition(tasks: Any) -> str:
    return str(tasks.shell.metrics.exposition().decode())


async def test_every_change_of_a_task_is_an_event() -> None:
    async with core() as one, queue(one) as tasks, task_agent("echo", say=echo) as agent:
        await one.register("echo", agent.port, "say", dress="native")
        as_of = (await tasks.call("list_tasks"))["as_of"]
        task_id = await tasks.submit("say")
        await tasks.until_state(task_id, "done")
        past = await tasks.call("events_since", topic="tasks.changed", epoch=as_of["epoch"], seq=as_of["seq"])
        states = [event["event"]["task"]["state"] for event in past["events"] if event["entity"] == task_id]
        assert states == ["queued", "running", "done"]
