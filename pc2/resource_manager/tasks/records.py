"""The rows that make tasks outlive the process and the loss of power, and how they are read at start.

A task's row holds what it is now, its payload and its result have rows of their own, so that a change of state writes little.
Idempotency keys and limits lie beside them. Keys of rows grow with time, so that a group of new tasks fills few pages of the
store and not one for each. Durability is FULL. It decides nothing.
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
            return TASKS.put(_place(fact.task.seq), fact.task), PAYLOADS.put(
                _place(fact.task.seq), Body(Raw(fact.payload))
            )
        case Ended():
            return _ended(fact, task)
        case ResultDropped():
            return (RESULTS.delete(_place(fact.seq)),)
        case Forgotten():
            place = _place(fact.seq)
            return TASKS.delete(place), PAYLOADS.delete(place), RESULTS.delete(place)
        case LimitSet():
            return (_bound(fact),)
        case ReplyKept():
            return (KEYS.put(_key(fact), fact),)
        case ReplyForgotten():
            return (KEYS.delete(_key(fact)),)
        case Settled() | Stalled():
            return ()
        case _:
            return (TASKS.put(_place(task.seq), task),) if task is not None else ()


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
        place = _place(task.seq)
        book.restore(task, payloads.get(place, b""), results.get(place, b""), moment)
    for kept in sorted(keys, key=lambda kept: kept.at):
        book.replies.fold(kept)
    for bound in bounds:
        book.apply(bound, moment)


def _ended(fact: Ended, task: Task | None) -> tuple[Change, ...]:
    assert task is not None
    place = _place(task.seq)
    row = TASKS.put(place, task)
    if fact.state != "done":
        return (row,)
    return row, PAYLOADS.delete(place), RESULTS.put(place, Body(Raw(fact.result)))


def _bound(fact: LimitSet) -> Change:
    if fact.running is None:
        return BOUNDS.delete(fact.capability)
    return BOUNDS.put(fact.capability, Bound(fact.running))


def _key(fact: ReplyKept | ReplyForgotten) -> str:
    scope = Scope(fact.identity, fact.verb, fact.key)
    return f"{fact.at:017.6f}-{digest(*(part.encode() for part in scope)).hex()}"


def _place(seq: int) -> str:
    return f"{seq:014x}"
