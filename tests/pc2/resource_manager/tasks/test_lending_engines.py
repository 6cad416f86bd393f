"""Tasks that need a model, from the queue to the engine: a real supervisor loads what they need, and agents ask it over HTTP."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec

from common.config.schema import SimulatedCard
from common.config.units import Size
from common.service.call import Call
from tests.common.supervisor.host import running, startup
from tests.common.supervisor.models.lab import GIB, model
from tests.common.supervisor.models.test_without_cards import bare
from tests.pc2.resource_manager.tasks.fabric import QUICK, Dict, core, queue, task_agent, until


def chat(url: str, name: str) -> str:
    """What the engine says to hello."""
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "hello"}]}).encode()
    asked = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


async def test_two_models_that_never_fit_together_are_each_loaded_once_for_tasks_that_alternate(
    tmp_path: Path, needs: Callable[[str], str]
) -> None:
    for program in ("setpriv", "prlimit", "taskset", "nice"):
        needs(program)
    order: list[str] = []

    async def work(asked: Dict, _call: Call) -> Dict:
        lent = asked["model"]
        order.append(lent["name"])
        return {"result": await asyncio.to_thread(chat, lent["url"], lent["upstream"])}

    card = SimulatedCard(Size(12 * GIB), "simulated")
    file = msgspec.structs.replace(startup("pc2"), simulated_cards=[card], models=[model("small", 4), model("big", 9)])
    async with running(tmp_path, file) as (host,), core() as one, task_agent("worker", say=work) as agent:
        own = host.supervisor.shell
        async with queue(one, None, QUICK, (), ("Supervisor__pc2", (own.port, own.events_port))) as tasks:
            ids = [await tasks.submit("say", model=name) for name in ("big", "small", "big", "small")]
            await one.register("worker", agent.port, "say", dress="native", location="pc2", metadata={"concurrency": 1})
            for task_id in ids:
                assert (await tasks.until_state(task_id, "done"))["result"] == "echo: hello"
            assert order in (["big", "big", "small", "small"], ["small", "small", "big", "big"])
            listed = await until(
                lambda: host.ask("list_models"), lambda told: not any(each["users"] for each in told["models"])
            )
            states = {each["name"]: each["state"] for each in listed["models"]}
            assert states == {order[-1]: "ready", order[0]: "absent"}


async def test_a_task_whose_model_needs_no_card_is_done_on_a_host_without_any(
    tmp_path: Path, needs: Callable[[str], str]
) -> None:
    for program in ("setpriv", "prlimit", "taskset", "nice"):
        needs(program)

    async def work(asked: Dict, _call: Call) -> Dict:
        lent = asked["model"]
        return {"result": await asyncio.to_thread(chat, lent["url"], lent["upstream"])}

    file = msgspec.structs.replace(startup("pc2"), simulated_cards=[], models=[bare("piper")])
    async with running(tmp_path, file) as (host,), core() as one, task_agent("worker", say=work) as agent:
        own = host.supervisor.shell
        async with queue(one, None, QUICK, (), ("Supervisor__pc2", (own.port, own.events_port))) as tasks:
            task_id = await tasks.submit("say", model="piper")
            await one.register("worker", agent.port, "say", dress="native", location="pc2", metadata={"concurrency": 1})
            assert (await tasks.until_state(task_id, "done"))["result"] == "echo: hello"
