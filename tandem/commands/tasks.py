"""`tandem tasks`: durable work and its queues; `submit`, `show`, `cancel` and `replay` one task, `limit` a capability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

import click
import msgspec

from common.api import resource_manager, tasks
from common.api.words import AnyVerb, Empty
from common.client.sync import Client
from tandem import asking, output
from tandem.exits import Exit
from tandem.options import PRIORITY, duration, some_time, with_json

HEADERS: Final = ("TASK", "STATE", "CAPABILITY", "MODEL", "ATTEMPTS", "SINCE", "AGENT", "")
QUEUES: Final = ("CAPABILITY", "MODEL", "QUEUED", "DELAYED", "RUNNING", "AGENTS", "OLDEST", "")
UNDONE: Final = ("failed", "expired", "cancelled", "dead")
GRACE_S: Final = 5.0
SLICE_S: Final = 20.0
"""One question of those that wait for a task's end; a service that comes back meanwhile is asked anew."""


@click.group(invoke_without_command=True)
@click.option("--state", type=click.Choice(get_args(tasks.TaskState)), default=None, help="Only these.")
@click.option("--capability", default="", metavar="NAME", help="Only tasks for this capability.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The newest so many.")
@with_json
@click.pass_context
def command(context: click.Context, state: tasks.TaskState | None, capability: str, limit: int, as_json: bool) -> None:
    """Durable work: its queues, and the tasks that changed last.

    JSON: {"tasks": [...], "counts", "as_of", "queues": [...]} as list_tasks and list_task_queues answer it; the others print one
    task.
    """
    if context.invoked_subcommand is not None:
        return
    asked = tasks.ListTasks(state=state, capability=capability, limit=limit)
    with asking.fabric() as client:
        found = client.call(resource_manager.SERVICE, tasks.LIST_TASKS, asked)
        queues = client.call(resource_manager.SERVICE, tasks.LIST_TASK_QUEUES, Empty()).queues
    shown = [queue for queue in queues if not capability or queue.capability == capability]
    if as_json:
        output.say_json(msgspec.to_builtins(found) | {"queues": shown})
        return
    counts = "   ".join(f"{name} {count}" for name, count in found.counts.items() if count) or "no tasks"
    output.say(f"none of these; in all {counts}" if (state or capability) and not found.tasks else counts)
    if shown:
        output.say()
        output.table(QUEUES, [queue_row(queue) for queue in shown], right=(2, 3, 4, 5, 6))
    if found.tasks:
        output.say()
        output.table(HEADERS, [row(task) for task in found.tasks], right=(4, 5))


def queue_row(queue: tasks.TaskQueue) -> tuple[object, ...]:
    """The queue of a capability, and of a model where its tasks need one, as a line of the table."""
    limit = "" if queue.limit is None else f"at most {queue.limit} at a time"
    oldest = output.age(queue.oldest_s) if queue.queued else ""
    remark = "; ".join(text for text in (queue.reason, limit) if text)
    waiting = queue.queued, queue.delayed, queue.running, queue.agents
    return queue.capability, queue.model, *waiting, oldest, remark


def row(task: tasks.TaskStatus) -> tuple[object, ...]:
    """A task as a line of the table."""
    since = task.ended_at or task.started_at or task.queued_at
    remark = "; ".join(text for text in (task.name, task.error or task.reason) if text)
    attempts = f"{task.attempts} of {task.max_attempts}"
    what = task.task_id, task.state, task.capability, task.model
    return *what, attempts, output.ago(since), task.agent_name, remark


def _show(task: tasks.TaskStatus, as_json: bool) -> None:
    if as_json:
        output.say_json(task)
    else:
        output.write(output.json_document(_told(task), indented=True) + "\n")


def _done_or_under_way(task: tasks.TaskStatus) -> bool:
    return task.state not in UNDONE


def _cancelled(task: tasks.TaskStatus) -> bool:
    return task.state == "cancelled"


def _told(task: tasks.TaskStatus) -> dict[str, Any]:
    """What there is to say: fields that are empty say nothing."""
    return {name: value for name, value in msgspec.to_builtins(task).items() if value not in ("", None, {})}


@command.command("submit")
@click.argument("capability")
@click.argument("payload", metavar="[JSON|@FILE|-]", default="{}")
@click.option("--model", default="", metavar="NAME", help="The managed model that it needs: lent before it begins.")
@click.option("--priority", type=PRIORITY, default=50, show_default=True, help="0 to 100, higher first.")
@click.option("--delay", type=duration, default="0s", metavar="TIME", help="Begin no sooner than after this.")
@click.option("--deadline", type=some_time, default=None, metavar="TIME", help="Over after this, done or not.")
@click.option("--attempts", type=click.IntRange(1, 1000), default=3, show_default=True, help="Tries at most.")
@click.option(
    "--timeout", type=some_time, default="1h", metavar="TIME", show_default=True, help="One try takes no longer."
)
@click.option(
    "--retain", type=duration, default="24h", metavar="TIME", show_default=True, help="Kept so long when ended."
)
@click.option("--name", default="", metavar="TEXT", help="A name for people.")
@click.option("--wait", is_flag=True, help="Wait for its end and print the task.")
@with_json
def submit(
    capability: str,
    payload: str,
    model: str,
    priority: int,
    delay: float,
    deadline: float | None,
    attempts: int,
    timeout: float,
    retain: float,
    name: str,
    wait: bool,
    as_json: bool,
) -> Exit:
    """Hand in durable work for a capability.

    JSON: {"task_id", "duplicate"}; with --wait the task as get_task answers it. Exits 1 when it ended otherwise than done.
    """
    from tandem.commands.call import read_request

    asked = tasks.SubmitTask(
        capability=capability,
        model=model,
        payload=read_request(payload),
        priority=priority,
        delay_s=float(delay),
        deadline_s=None if deadline is None else float(deadline),
        max_attempts=attempts,
        timeout_s=float(timeout),
        retain_s=float(retain),
        name=name,
    )
    with asking.fabric(SLICE_S + GRACE_S) as client:
        submitted = client.call(resource_manager.SERVICE, tasks.SUBMIT_TASK, asked)
        if wait:
            output.note(f"{submitted.task_id} is submitted; it goes on when this command is ended")
            task = _ended(client, submitted.task_id)
            _show(task, as_json)
            return Exit.OK if _done_or_under_way(task) else Exit.BAD_ANSWER
    if as_json:
        output.say_json(submitted)
    else:
        output.say(submitted.task_id)
    return Exit.OK


@command.command("limit")
@click.argument("capability")
@click.argument("running", type=click.IntRange(0, 1_000_000), required=False, metavar="[NUMBER]")
@click.option("--none", "unbounded", is_flag=True, help="As many as there are agents for.")
@with_json
def limit(capability: str, running: int | None, unbounded: bool, as_json: bool) -> Exit:
    """Bound how many tasks of a capability run at a time; 0 holds them back. What runs goes on.

    JSON: {"capability", "running"}, null where there is no bound.
    """
    if (running is None) != unbounded:
        raise click.UsageError("say a NUMBER, or --none")
    with asking.fabric() as client:
        asked = tasks.LimitTasks(capability=capability, running=running)
        client.call(resource_manager.SERVICE, tasks.LIMIT_TASKS, asked)
    if as_json:
        output.say_json({"capability": capability, "running": running})
    else:
        bound = "as many as there are agents for" if running is None else f"at most {running}"
        output.say(f"of {capability} {bound} run at a time from now on")
    return Exit.OK


def _ended(client: Client, task_id: str) -> tasks.TaskStatus:
    """The task once it has ended; the wait has no end of its own, since the task's may be days away."""
    while True:
        asked = tasks.GetTask(task_id=task_id, wait_s=SLICE_S)
        task = client.call(resource_manager.SERVICE, tasks.GET_TASK, asked)
        if task.state == "done" or task.state in UNDONE:
            return task


def _add(
    word: str,
    verb: AnyVerb,
    request: type[tasks.TaskId] | type[tasks.GetTask],
    good: Callable[[tasks.TaskStatus], bool],
    text: str,
) -> None:
    @command.command(word, help=text)
    @click.argument("task_id", metavar="TASK")
    @with_json
    def operate(task_id: str, as_json: bool) -> Exit:
        with asking.fabric() as client:
            task = client.call(resource_manager.SERVICE, verb, request(task_id=task_id))
        _show(task, as_json)
        return Exit.OK if good(task) else Exit.BAD_ANSWER


_add(
    "show",
    tasks.GET_TASK,
    tasks.GetTask,
    _done_or_under_way,
    "One task, with its result. Exits 1 when it ended otherwise than done.",
)
_add(
    "cancel",
    tasks.CANCEL_TASK,
    tasks.TaskId,
    _cancelled,
    "Withdraw a task, also from the agent that works on it. Exits 1 when it had ended otherwise before.",
)
_add("replay", tasks.REPLAY_TASK, tasks.TaskId, _done_or_under_way, "Run a task anew that ended undone.")
