"""Tasks: durable work outlives a kill -9 of the agent that does it and of the service that keeps it."""

from __future__ import annotations

import os
import signal
from typing import Any

from examples.scenes.tally import SAMPLES, Tally, agents, base64_of, until, words_found
from tandem import AsyncClient, TandemError

KEEPER = "ResourceManager"


async def outlived(client: AsyncClient, tally: Tally, truth: dict[str, Any]) -> None:
    """A page is read once, though both who knew of it were killed meanwhile."""
    work = {"capability": "vision", "name": "page.png", "payload": {"image_data": base64_of(SAMPLES / "page.png")}}
    task_id = (await client.call(KEEPER, "submit_task", work))["task_id"]
    await until("the task to reach the agent", 10.0, lambda: at_work(client))
    reading, keeper = (await agents(client))["reading"]["pid"], await keeper_pid(client)
    os.kill(reading, signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    tally.step(f"killed reading (pid {reading}) and {KEEPER} (pid {keeper}) with -9 in the middle of task {task_id}")
    task = await until("the task's end", 30.0, lambda: ended(client, task_id))
    found = words_found(task["result"] or {}, truth["page.png"])
    by = f"by the new reading (pid {(await agents(client))['reading']['pid']})"
    tally.check(task["state"] == "done" and found >= 10, f"{task['state']}: {found} words read {by}")
    again = (await figures(client))["count"]
    known = (await client.call(KEEPER, "list_tasks"))["counts"]
    once = again == 1 and task["attempts"] == 2 and sum(known.values()) == known["done"] == 1
    tally.check(
        once, f"done once: attempt {task['attempts']}, {again} call to the new reading, {known['done']} task done"
    )


async def figures(client: AsyncClient) -> dict[str, Any]:
    """What the reading agent that is there now counts of its verb."""
    counted: dict[str, Any] = (await client.call("reading", "stats"))["verbs"]["read_image"]
    return counted


async def at_work(client: AsyncClient) -> bool:
    """Whether the reading agent reads."""
    return bool((await figures(client))["in_flight"])


async def keeper_pid(client: AsyncClient) -> int:
    """ResourceManager's process."""
    listed = await client.call("Supervisor/pc2", "list_processes")
    return next(int(process["pid"]) for process in listed["processes"] if process["name"] == "resource_manager")


async def ended(client: AsyncClient, task_id: str) -> dict[str, Any] | None:
    """The task, once it has ended; its keeper may be away."""
    try:
        task: dict[str, Any] = await client.call(KEEPER, "get_task", {"task_id": task_id})
    except TandemError:
        return None
    return task if task["state"] not in ("queued", "running") else None
