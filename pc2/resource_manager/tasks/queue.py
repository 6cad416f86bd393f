"""The task queue: decides what is accepted, when it is given away, what a broken run means, and how everything ends.

Every method is a decision: it reads the book, changes nothing but the idempotency keys it claims, and returns facts and
instructions. The shell, in one turn of its loop, applies the facts to the book and writes their rows; once the group is
committed it performs the instructions and publishes what changed. The next decision may follow as soon as the facts are
applied. When a commit fails, the book is loaded anew from the store.

A task is done at least once. While its run's outcome is unknown (its agent or this service died midway) it is not done, and is
run again while attempts are left; the agent knows it again by `task_id`. A task is never lost: it ends done, failed, dead,
expired or cancelled, and waits for as long as no agent offers its capability. One that needs a model begins only while that is
on loan, at an agent of the model's host: there its address is good, and the one loan covers every use.

Every `Send` is answered by exactly one of `answered`, `failed` or `agent_lost`, also when the task has ended meanwhile: only
then is the agent's place free again.

It holds no socket and reads no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from msgspec import msgpack

from common.api.tasks import LimitTasks, SubmitTask, TaskState
from common.clock import Rng
from common.dispatch.provider import Offers
from common.errors import Cancelled, Code, Conflict, DeadlineExceeded, Interrupted, TandemError
from common.resilience.idempotency import Answered, Scope, digest
from pc2.resource_manager.tasks.admission import admit, size_of
from pc2.resource_manager.tasks.book import TaskBook
from pc2.resource_manager.tasks.giving import give
from pc2.resource_manager.tasks.loans import Loans
from pc2.resource_manager.tasks.retry import verdict
from pc2.resource_manager.tasks.task import (
    ACTIVE,
    Accepted,
    Decision,
    Ended,
    Fact,
    Forgotten,
    LimitSet,
    Moment,
    Replayed,
    ResultDropped,
    Settled,
    Stalled,
    Task,
    Withdraw,
)

VERB: Final = "submit_task"


@dataclass(frozen=True, slots=True)
class Submitted:
    """The task's id (an earlier one when its idempotency key came before) and what to do."""

    task_id: str
    duplicate: bool
    decision: Decision


class Tasks:
    """The decisions on one book, by the models that are on loan."""

    def __init__(self, book: TaskBook, rng: Rng, loans: Loans) -> None:
        self._book = book
        self._loans = loans
        self._limits = book.limits
        self._rng = rng

    # what callers ask

    def submit(self, asked: SubmitTask, identity: str, host: str, *, task_id: str, moment: Moment) -> Submitted:
        """Accepts a task under `task_id`, or finds the one that came with the same key before.

        Raises IdempotencyMismatch, TooLarge when its payload or its metadata is, and Overloaded when the queue is full or this
        identity has its share of it.
        """
        payload = msgpack.encode(asked.payload)
        scope = Scope(identity, VERB, asked.idempotency_key)
        if asked.idempotency_key:
            claim = self._book.replies.claim(scope, _digest(asked), moment.wall)
            if isinstance(claim, Answered):
                return Submitted(claim.reply.decode(), True, Decision())
        try:
            size = size_of(asked, payload, self._limits)
            admit(self._book, asked.capability, asked.model, size, identity)
        except TandemError:
            self._book.replies.abandon(scope)
            raise
        accepted = Accepted(self._task(asked, identity, host, task_id, size, moment), payload)
        keys: list[Fact] = []
        if asked.idempotency_key:
            keys += self._book.replies.settle(scope, task_id.encode(), moment.wall)
        return Submitted(task_id, False, Decision((accepted, *keys)))

    def cancel(self, task_id: str) -> Decision:
        """Withdraws a task; nothing happens to one that has ended. NotFound when it is not known."""
        task = self._book.entry(task_id).task
        return self._stop(task, "cancelled", Cancelled("withdrawn")) if task.state in ACTIVE else Decision()

    def replay(self, task_id: str) -> Decision:
        """Has a task that ended undone run anew. NotFound when it is not known, Conflict when it is done or has not ended."""
        task = self._book.entry(task_id).task
        if task.state == "done" or task.state in ACTIVE:
            raise Conflict(
                f"task {task_id} is {task.state}; only one that failed, died, expired or was cancelled is replayed"
            )
        admit(self._book, task.capability, task.model, task.size, task.identity)
        return Decision((Replayed(task_id),))

    def limit(self, asked: LimitTasks) -> Decision:
        """Bounds how many tasks of a capability run at a time, from the next one on."""
        return Decision((LimitSet(asked.capability, asked.running),))

    # what happens to calls

    def dispatch(self, moment: Moment, offers: Offers) -> Decision:
        """Gives the most urgent task to an agent that is free for it; to be made again while the book has some awake.

        A line whose first task has to wait stalls, for all behind it want the same agents and model, until the book is told to
        wake it.
        """
        task_id = self._book.lines.next()
        if task_id is None:
            return Decision()
        entry = self._book.entries[task_id]
        if entry.deadline <= moment.now:
            return self._stop(entry.task, "expired", DeadlineExceeded(_late(entry.task)))
        given = give(self._book, self._loans, entry.task, moment, offers)
        return Decision((given,)) if isinstance(given, Stalled) else given

    def answered(self, task_id: str, run: int, result: Any) -> Decision:
        """The agent performed this run; done, unless the task no longer waits for it."""
        settled = self._settled(task_id, run)
        if not settled or not self._book.runs(task_id, run):
            return Decision(settled)
        body = msgpack.encode(result)
        if len(body) > self._limits.result_bytes:
            large = f"the result has {len(body)} bytes; {self._limits.result_bytes} are allowed"
            return Decision((*settled, Ended(task_id, "failed", Code.TOO_LARGE, large)))
        return Decision((*settled, Ended(task_id, "done", result=body)))

    def failed(self, task_id: str, run: int, error: TandemError, moment: Moment) -> Decision:
        """The call ended with `error`: tried again where that can help and attempts are left."""
        settled = self._settled(task_id, run)
        if not settled or not self._book.runs(task_id, run):
            return Decision(settled)
        entry = self._book.entries[task_id]
        if entry.deadline <= moment.now:
            return Decision((*settled, Ended(task_id, "expired", Code.DEADLINE_EXCEEDED, _late(entry.task))))
        return Decision((*settled, verdict(entry.task, error, self._limits, self._rng)))

    def agent_lost(self, agent_name: str) -> Decision:
        """The agent died or was replaced: what it worked on is tried again while attempts are left."""
        calls = self._book.calls.to(agent_name)
        return self._interrupt(calls, f"{agent_name} went away while it worked on this")

    def resume(self, live: Collection[tuple[str, int]] = ()) -> Decision:
        """After the book was loaded: interrupts every run but those whose call is still `live` here.

        None is after a restart; after a failed commit the shell still hears the calls that it has open.
        """
        deaf = [call for call in self._book.calls if call not in live]
        return self._interrupt(deaf, "ResourceManager restarted while this was running")

    # what time brings about; each concerns one task, and is made again while it has facts

    def expire(self, now: float) -> Decision:
        """Ends a task whose deadline has come."""
        task_id = self._book.active.deadlines.due(now)
        if task_id is None:
            return Decision()
        task = self._book.entries[task_id].task
        return self._stop(task, "expired", DeadlineExceeded(_late(task)))

    def trim(self, now: float) -> Decision:
        """Lets go of an ended task whose time is over or that is one too many, or of a result that is too much to keep.

        What was done or cancelled goes before what ended undone.
        """
        book, limits = self._book, self._limits
        kept = book.kept
        over = kept.retention.due(now)
        if over is not None:
            return Decision((Forgotten(over, self._seq(over)),))
        oldest = kept.oldest()
        if oldest is None or (len(kept) <= limits.kept and kept.bytes <= limits.kept_bytes):
            return Decision()
        result = kept.oldest_result()
        if len(kept) <= limits.kept and result is not None:
            return Decision((ResultDropped(result, self._seq(result)),))
        return Decision((Forgotten(oldest, self._seq(oldest)),))

    # inside

    def _task(self, asked: SubmitTask, identity: str, host: str, task_id: str, size: int, moment: Moment) -> Task:
        return Task(
            task_id=task_id,
            seq=self._book.next_seq,
            capability=asked.capability,
            priority=asked.priority,
            max_attempts=asked.max_attempts,
            timeout_s=asked.timeout_s,
            retain_s=asked.retain_s,
            queued_at=moment.wall,
            run_at=moment.wall + asked.delay_s,
            delay_s=asked.delay_s,
            deadline_s=asked.deadline_s or 0.0,
            deadline_at=moment.wall + asked.deadline_s if asked.deadline_s else 0.0,
            name=asked.name,
            metadata=asked.metadata,
            identity=identity,
            host=host,
            size=size,
            model=asked.model,
        )

    def _seq(self, task_id: str) -> int:
        return self._book.entries[task_id].task.seq

    def _settled(self, task_id: str, run: int) -> tuple[Fact, ...]:
        return (Settled(task_id, run),) if (task_id, run) in self._book.calls else ()

    def _interrupt(self, calls: Iterable[tuple[str, int]], why: str) -> Decision:
        facts: list[Fact] = []
        for task_id, run in calls:
            facts.append(Settled(task_id, run))
            if self._book.runs(task_id, run):
                facts.append(verdict(self._book.entries[task_id].task, Interrupted(why), self._limits, self._rng))
        return Decision(tuple(facts))

    def _stop(self, task: Task, state: TaskState, error: TandemError) -> Decision:
        end = Ended(task.task_id, state, error.code, error.message)
        return Decision((end,), (Withdraw(task.task_id, task.runs),) if task.state == "running" else ())


def _late(task: Task) -> str:
    return f"not done within {task.deadline_s:g} s; it was {task.state}"


def _digest(asked: SubmitTask) -> bytes:
    told = (
        asked.capability,
        asked.payload,
        asked.priority,
        asked.delay_s,
        asked.deadline_s,
        asked.max_attempts,
        asked.timeout_s,
        asked.retain_s,
        asked.name,
        asked.metadata,
        *((asked.model,) if asked.model else ()),
    )
    return digest(msgpack.encode(told, order="deterministic"))
