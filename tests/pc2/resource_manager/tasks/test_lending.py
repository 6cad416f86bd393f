"""Tasks that need a model, on real sockets: models lent by supervisors over their real lease tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common.api.models import USE_MODEL, UseModel
from common.api.resource_manager import SERVICE
from common.errors import BadRequest, NoCapacity
from common.service.call import Call
from pc2.resource_manager.tasks import loans
from pc2.resource_manager.tasks.lending import Lending
from tests.pc2.resource_manager.tasks.fabric import Core, Dict, Gate, Queue, core, queue, task_agent, until
from tests.pc2.resource_manager.tasks.models import ModelHost, model_host


class Book:
    """An agent that writes down what it was given, and takes its time while `open`."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.given: list[Dict] = []
        self.open = asyncio.Event()
        self.open.set()

    async def work(self, asked: Dict, _call: Call) -> Dict:
        self.given.append(asked)
        await self.open.wait()
        await asyncio.sleep(self.takes_s)
        return {"result": asked["model"]["name"]}

    @property
    def models(self) -> list[str]:
        return [each["model"]["name"] for each in self.given]


@asynccontextmanager
async def lab(*hosts: ModelHost) -> AsyncIterator[tuple[Core, Queue]]:
    """CoreOrchestrator, and ResourceManager over these hosts, whose loans are renewed often."""
    async with core() as one, queue(one, hosts=hosts) as tasks:
        lending_of(tasks)._renew_s = 0.05
        yield one, tasks


def lending_of(tasks: Queue) -> Lending:
    return tasks.service._tasks._dispatching._lending


async def until_so(fact: Any) -> None:
    await until(lambda: asyncio.sleep(0, fact()), bool)


async def test_tasks_of_one_model_run_together_and_the_models_are_given_back(tmp_path: Path) -> None:
    book = Book()
    async with (
        model_host(tmp_path, qwen=20, flux=20) as pc2,
        lab(pc2) as (one, tasks),
        task_agent("worker", say=book.work) as agent,
    ):
        ids = [await tasks.submit("say", {"text": "hi"}, model=name) for name in ("qwen", "flux", "qwen", "flux")]
        assert pc2.used == []
        await one.register("worker", agent.port, "say", dress="native", location="pc2", metadata={"concurrency": 1})
        for task_id in ids:
            status = await tasks.until_state(task_id, "done")
        assert (status["model"], status["result"]) == ("flux", "flux")
        assert book.models in (["qwen", "qwen", "flux", "flux"], ["flux", "flux", "qwen", "qwen"])
        assert book.given[0]["model"] == {
            "name": book.models[0],
            "url": "http://127.0.0.1:1/pc2",
            "upstream": "served",
            "host": "pc2",
            "engine": "llama-server",
        }
        assert book.given[0]["text"] == "hi"
        await until_so(lambda: not pc2.live)


@asynccontextmanager
async def many_of_one_model(folder: Path) -> AsyncIterator[tuple[ModelHost, Queue, Book, list[str]]]:
    """Fifty tasks of qwen, one after the other; the first is held up until the book is opened."""
    book = Book(takes_s=0.05)
    book.open.clear()
    async with (
        model_host(folder, qwen=20, flux=20) as pc2,
        lab(pc2) as (one, tasks),
        task_agent("worker", say=book.work) as agent,
    ):
        await one.register("worker", agent.port, "say", dress="native", location="pc2", metadata={"concurrency": 1})
        many = [await tasks.submit("say", model="qwen") for _ in range(50)]
        await until_so(lambda: book.given)
        yield pc2, tasks, book, many


async def test_a_more_urgent_task_has_the_models_changed_after_a_batch_of_those_that_keep_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loans, "BATCH_S", 0.2)
    async with many_of_one_model(tmp_path) as (_, tasks, book, many):
        single = await tasks.submit("say", model="flux", priority=90)
        book.open.set()
        await tasks.until_state(single, "done")
        assert book.models.count("qwen") < 50
        for task_id in many:
            await tasks.until_state(task_id, "done")
        assert book.models.count("flux") == 1


async def test_a_caller_who_waits_has_its_model_between_two_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loans, "BATCH_S", 0.2)
    monkeypatch.setattr(loans, "CALLER_S", 0.0)
    async with many_of_one_model(tmp_path) as (pc2, tasks, book, many):
        wanted = UseModel(model="flux", wait_s=60.0, ttl_s=60.0)
        calling = asyncio.create_task(tasks.client.call(SERVICE, USE_MODEL, wanted, timeout_s=60.0))
        await until_so(lambda: len(pc2.used) == 2)
        book.open.set()
        ready = await calling
        assert 0 < len(book.given) < 50
        (lease,) = pc2.shares(ready.model)
        await pc2.end(lease)
        for task_id in many:
            await tasks.until_state(task_id, "done")


async def test_why_a_task_waits_for_its_model_and_how_long_yet_is_told(tmp_path: Path) -> None:
    book, gate = Book(), Gate()
    async with (
        model_host(tmp_path, qwen=20, flux=20) as pc2,
        lab(pc2) as (one, tasks),
        task_agent("worker", say=gate.work, sing=book.work) as agent,
    ):
        await one.register("worker", agent.port, "say", "sing", dress="native", location="pc2")
        await tasks.submit("say", model="qwen")
        await gate.until_begun()
        task_id = await tasks.submit("sing", model="flux")
        waits = "it waits for flux: queued on pc2, about 7 s: others use the card"
        await until(lambda: tasks.get(task_id), lambda status: status["reason"] == waits)
        gate.open.set()
        assert (await tasks.until_state(task_id, "done"))["result"] == "flux"


async def test_a_loan_that_is_lost_while_a_task_runs_is_had_anew(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        model_host(tmp_path, qwen=20) as pc2,
        lab(pc2) as (one, tasks),
        task_agent("worker", say=gate.work) as agent,
    ):
        await one.register("worker", agent.port, "say", dress="native", location="pc2")
        task_id = await tasks.submit("say", {"text": "hi"}, model="qwen")
        await gate.until_begun()
        (first,) = pc2.shares("qwen")
        await pc2.end(first)
        await until_so(lambda: [lease.lease_id for lease in pc2.shares("qwen") if lease.lease_id != first.lease_id])
        gate.open.set()
        assert (await tasks.until_state(task_id, "done"))["attempts"] == 1
        await until_so(lambda: not pc2.live)


async def test_a_loan_is_renewed_while_it_is_kept_also_after_its_host_was_away(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        model_host(tmp_path, qwen=20) as pc2,
        lab(pc2) as (one, tasks),
        task_agent("worker", say=gate.work) as agent,
    ):
        await one.register("worker", agent.port, "say", dress="native", location="pc2")
        await tasks.submit("say", model="qwen")
        await gate.until_begun()
        loan = lending_of(tasks)._loans._loans["qwen"]
        sure_until = loan.sure_until
        await pc2.cable.cut()
        await pc2.cable.open()
        await until_so(lambda: loan.sure_until > sure_until)
        gate.open.set()
        await until_so(lambda: not pc2.live)


async def test_a_model_that_no_host_has_is_waited_for_until_one_does(tmp_path: Path) -> None:
    book = Book()
    async with (
        model_host(tmp_path) as pc2,
        lab(pc2) as (one, tasks),
        task_agent("worker", say=book.work) as agent,
    ):
        await one.register("worker", agent.port, "say", dress="native", location="pc2")
        task_id = await tasks.submit("say", model="qwen")
        await until(lambda: tasks.get(task_id), lambda status: "it waits for qwen: no model 'qwen'" in status["reason"])
        (line,) = (await tasks.call("list_task_queues"))["queues"]
        assert (line["model"], line["queued"], "no model" in line["reason"]) == ("qwen", 1, True)
        pc2.sizes["qwen"] = 20
        await tasks.until_state(task_id, "done")


async def test_a_name_that_no_model_can_have_is_refused() -> None:
    async with queue(None) as tasks:
        with pytest.raises(BadRequest, match="model"):
            await tasks.submit("say", model="../etc")


async def test_where_a_host_refuses_and_where_asking_has_a_bug_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book()
    async with (
        model_host(tmp_path, qwen=20) as pc2,
        lab(pc2) as (one, tasks),
        task_agent("worker", say=book.work) as agent,
    ):
        pc2.refusals = [NoCapacity("all its slots are taken")]
        lender, asked = lending_of(tasks)._lender, list[int]()
        use = lender.use

        async def once_wrong(*what: Any) -> Any:
            asked.append(1)
            if len(asked) == 1:
                raise RuntimeError("a bug")
            return await use(*what)

        monkeypatch.setattr(lender, "use", once_wrong)
        await one.register("worker", agent.port, "say", dress="native", location="pc2")
        await tasks.until_state(await tasks.submit("say", model="qwen"), "done")
        assert (len(asked), len(pc2.used)) == (3, 2)


async def test_only_agents_beside_the_model_get_its_tasks_and_the_choice_of_host_follows_them(tmp_path: Path) -> None:
    near, far = Book(), Book()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        mainpc, pc2 = [await enter(model_host(tmp_path, name, qwen=20)) for name in ("mainpc", "pc2")]
        one, tasks = await enter(lab(mainpc, pc2))
        agents = [await enter(task_agent(name, say=book.work)) for name, book in (("near", near), ("far", far))]
        await one.register("far", agents[1].port, "say", dress="native", location="mainpc")
        assert (await tasks.until_state(await tasks.submit("say", model="qwen"), "done"))["agent_name"] == "far"
        assert ([each.host for each in mainpc.used], pc2.used) == (["mainpc"], [])
        await one.register("near", agents[0].port, "say", dress="native", location="pc2")
        await one.call("deregister_agent", agent_name="far")
        assert (await tasks.until_state(await tasks.submit("say", model="qwen"), "done"))["agent_name"] == "near"
        assert [each["model"]["host"] for each in near.given] == ["pc2"]


async def test_what_is_on_loan_is_given_back_when_the_service_stops(tmp_path: Path) -> None:
    gate = Gate()
    async with model_host(tmp_path, qwen=20) as pc2, task_agent("worker", say=gate.work) as agent:
        async with lab(pc2) as (one, tasks):
            await one.register("worker", agent.port, "say", dress="native", location="pc2")
            await tasks.submit("say", model="qwen")
            await gate.until_begun()
            assert pc2.shares("qwen")
        assert pc2.live == []


async def test_a_loan_that_comes_when_nobody_wants_it_any_more_goes_back(tmp_path: Path) -> None:
    async with (
        model_host(tmp_path, qwen=20, flux=20) as pc2,
        lab(pc2) as (one, tasks),
        task_agent("worker", say=Gate().work) as agent,
    ):
        await one.register("worker", agent.port, "say", dress="native", location="pc2", metadata={"concurrency": 2})
        first = await tasks.submit("say", model="qwen")
        await tasks.until_state(first, "running")
        second = await tasks.submit("say", model="flux")
        await until_so(lambda: len(pc2.used) == 2)
        await tasks.call("cancel_task", task_id=second)
        await until_so(lambda: len(lending_of(tasks)) == 1)
        await tasks.call("cancel_task", task_id=first)
        await until_so(lambda: not pc2.live)
