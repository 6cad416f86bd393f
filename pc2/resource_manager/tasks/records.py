"""The rows that make tasks outlive the process and the loss of power, and how they are read at start.

A task's row holds what it is now, its payload and its result have rows of their own, so that a change of state writes little.
Idempotency keys and limits lie beside them. Durability is FULL. It decides nothing.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct

from common.resilience.idempotency import ReplyForgotten, ReplyKept, Scope, digest
from common.store.protocol import Change, RecordStore
from common.store.records import Records
from pc2.resource_manager.tasks.book import TaskBook
from pc2.resource_manager.tasks.task import (
    Accepted,
    Ended,
    Fact,
    Forgotten,
    LimitSet,
    Moment,
    ResultDropped,
    Settled,
    Stalled,
    Task,
)


class Body(Struct, frozen=True):
    """Row: a payload or a result, in msgpack."""

    body: Raw


class Bound(Struct, frozen=True):
    """Row: how many tasks of a capability may run at a time."""

    running: int


TASKS: Final = Records("tasks", Task)
PAYLOADS: Final = Records("task_payloads", Body)
RESULTS: Final = Records("task_results", Body)
KEYS: Final = Records("task_keys", ReplyKept)
BOUNDS: Final = Records("task_limits", Bound)


def rows(fact: Fact, task: Task | None) -> tuple[Change, ...]:
    """What must be committed for `fact` to last; `task` is what the book made of it, where its state changed."""
    match fact:
        case Accepted():
            return TASKS.put(fact.task.task_id, fact.task), PAYLOADS.put(fact.task.task_id, Body(Raw(fact.payload)))
        case Ended():
            return _ended(fact, task)
        case ResultDropped():
            return (RESULTS.delete(fact.task_id),)
        case Forgotten():
            return TASKS.delete(fact.task_id), PAYLOADS.delete(fact.task_id), RESULTS.delete(fact.task_id)
        case LimitSet():
            return (_bound(fact),)
        case ReplyKept():
            return (KEYS.put(_key(fact), fact),)
        case ReplyForgotten():
            return (KEYS.delete(_key(fact)),)
        case Settled() | Stalled():
            return ()
        case _:
            return (TASKS.put(fact.task_id, task),) if task is not None else ()


def load(store: RecordStore, book: TaskBook, moment: Moment) -> None:
    """Makes `book` what the tables hold, in the order in which things happened; StorageUnavailable when they cannot be read."""
    tasks = [task for _, task in TASKS.load(store)]
    payloads = {key: bytes(row.body) for key, row in PAYLOADS.load(store)}
    results = {key: bytes(row.body) for key, row in RESULTS.load(store)}
    keys = [kept for _, kept in KEYS.load(store)]
    bounds = [LimitSet(capability, row.running) for capability, row in BOUNDS.load(store)]
    tasks.sort(key=lambda task: (max(task.queued_at, task.started_at, task.ended_at), task.seq))
    book.clear()
    for task in tasks:
        book.restore(task, payloads.get(task.task_id, b""), results.get(task.task_id, b""), moment)
    for kept in sorted(keys, key=lambda kept: kept.at):
        book.replies.fold(kept)
    for bound in bounds:
        book.apply(bound, moment)


def _ended(fact: Ended, task: Task | None) -> tuple[Change, ...]:
    assert task is not None
    row = TASKS.put(fact.task_id, task)
    if fact.state != "done":
        return (row,)
    return row, PAYLOADS.delete(fact.task_id), RESULTS.put(fact.task_id, Body(Raw(fact.result)))


def _bound(fact: LimitSet) -> Change:
    if fact.running is None:
        return BOUNDS.delete(fact.capability)
    return BOUNDS.put(fact.capability, Bound(fact.running))


def _key(fact: ReplyKept | ReplyForgotten) -> str:
    scope = Scope(fact.identity, fact.verb, fact.key)
    return digest(*(part.encode() for part in scope)).hex()
