"""Tasks as callers see them. It changes nothing."""

from __future__ import annotations

from typing import Final

from msgspec import msgpack

from common.api.tasks import TaskQueue, TaskStatus
from common.clock import timestamp
from pc2.resource_manager.tasks.book import Entry, TaskBook, kept_s
from pc2.resource_manager.tasks.lines import line_of, parts_of
from pc2.resource_manager.tasks.task import ACTIVE

RESULT_GONE: Final = "done, but its result is no longer kept"


def status(book: TaskBook, entry: Entry, *, with_result: bool = True) -> TaskStatus:
    """The task as it stands."""
    task = entry.task
    active = task.state in ACTIVE
    gone = task.state == "done" and not entry.result
    return TaskStatus(
        task_id=task.task_id,
        state=task.state,
        capability=task.capability,
        model=task.model,
        name=task.name,
        priority=task.priority,
        attempts=task.attempts,
        max_attempts=task.max_attempts,
        agent_name=task.agent_name,
        result=msgpack.decode(entry.result) if with_result and entry.result else None,
        code=task.code,
        error=RESULT_GONE if gone else task.error,
        reason=_reason(book, entry) if task.state == "queued" else task.reason,
        progress=entry.progress,
        parts=entry.parts,
        replays=task.replays,
        queued_at=_time(task.queued_at),
        run_at=_time(task.run_at) if active else "",
        started_at=_time(task.started_at),
        ended_at=_time(task.ended_at),
        deadline_at=_time(task.deadline_at),
        kept_until="" if active else _time(task.ended_at + kept_s(task, book.limits)),
        metadata=task.metadata,
    )


def queues(book: TaskBook, agents: dict[str, int], wall: float) -> list[TaskQueue]:
    """Each line that has tasks waiting or running, or a limit, by name; `agents` is how many offer each capability."""
    with_model = book.wants.calls()
    return [_queue(book, line, agents, wall, with_model[line]) for line in sorted(book.lines_known())]


def _queue(book: TaskBook, line: str, agents: dict[str, int], wall: float, with_model: int) -> TaskQueue:
    capability, model = parts_of(line)
    return TaskQueue(
        capability=capability,
        model=model,
        queued=book.queued(line),
        delayed=book.lines.late[line],
        running=book.wants.running(line) if model else book.calls.running[capability] - with_model,
        agents=agents.get(capability, 0),
        oldest_s=book.active.oldest_s(wall, line),
        limit=book.bounds.get(capability),
        reason=book.lines.stalls.get(line, ""),
    )


def _reason(book: TaskBook, entry: Entry) -> str:
    task = entry.task
    delayed = f"it may begin at {_time(task.run_at)}" if task.task_id in book.lines.delayed else ""
    stall = "" if delayed else book.lines.stalls.get(line_of(task.capability, task.model), "")
    return "; ".join(part for part in (task.reason, delayed, stall) if part)


def _time(wall: float) -> str:
    return timestamp(wall) if wall else ""
