"""The task queue: decides what is accepted, who gets it, what a broken run means, and how everything ends.

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

from common.api.models import ModelReady
from common.api.tasks import LimitTasks, SubmitTask, TaskState
from common.clock import Rng
from common.dispatch.provider import Offer, Offers
from common.dispatch.rule import Candidate, Chosen, Nobody, Reason, Wait, Wish, choose
from common.errors import Cancelled, Code, Conflict, DeadlineExceeded, Interrupted, Overloaded, TandemError, TooLarge
from common.resilience.idempotency import Answered, Scope, digest
from common.resilience.share import has_share
from pc2.resource_manager.tasks.book import TaskBook, metadata_bytes
from pc2.resource_manager.tasks.lines import line_of
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
    Send,
    Settled,
    Stalled,
    Started,
    Task,
    Withdraw,
)

NOBODY: Final = "no agent offers it; it waits for one"
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
            size = self._size(asked, payload)
            self._admit(asked.capability, asked.model, size, identity)
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
        self._admit(task.capability, task.model, task.size, task.identity)
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
        task = self._book.entries[task_id].task
        given = self._give(task, moment, offers)
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
        calls = self._book.load.calls_to(agent_name)
        return self._interrupt(calls, f"{agent_name} went away while it worked on this")

    def resume(self, live: Collection[tuple[str, int]] = ()) -> Decision:
        """After the book was loaded: interrupts every run but those whose call is still `live` here.

        None is after a restart; after a failed commit the shell still hears the calls that it has open.
        """
        deaf = [call for call in self._book.load.calls if call not in live]
        return self._interrupt(deaf, "ResourceManager restarted while this was running")

    # what time brings about; each concerns one task, and is made again while it has facts

    def expire(self, now: float) -> Decision:
        """Ends a task whose deadline has come."""
        task_id = self._book.deadlines.due(now)
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

    def _admit(self, capability: str, model: str, size: int, identity: str) -> None:
        book, limits = self._book, self._limits
        if len(book.arrivals) >= limits.capabilities and line_of(capability, model) not in book.arrivals:
            self._refuse(f"tasks wait or run for {len(book.arrivals)} capabilities; {limits.capabilities} are allowed")
        waiting, active = book.waiting(capability), book.active()
        if waiting >= limits.queued:
            self._refuse(f"{waiting} tasks wait for {capability!r}; {limits.queued} are allowed")
        if active >= limits.active:
            self._refuse(f"{active} tasks wait or run; {limits.active} are allowed")
        if book.active_bytes + size > limits.active_bytes:
            self._refuse(
                f"tasks that wait or run hold {book.active_bytes} bytes and this one has {size}; "
                f"{limits.active_bytes} are allowed"
            )
        self._share(capability, size, identity)

    def _share(self, capability: str, size: int, identity: str) -> None:
        """One identity leaves room for others."""
        book, limits, shares = self._book, self._limits, self._book.shares
        line = f"tasks that wait for {capability!r}"
        rooms = (
            (line, shares.waiting.of(identity, capability), book.waiting(capability), limits.queued, 1),
            ("tasks that wait or run", shares.active.of(identity), book.active(), limits.active, 1),
            (
                "bytes of tasks that wait or run",
                shares.bytes.of(identity),
                book.active_bytes,
                limits.active_bytes,
                size,
            ),
        )
        for what, held, taken, total, wanted in rooms:
            if not has_share(held, taken, total, wanted):
                self._refuse(f"{identity} has {held} of the {taken} {what}; what is left of {total} is for others")

    def _size(self, asked: SubmitTask, payload: bytes) -> int:
        """The bytes that the task holds while it is active; TooLarge when its payload or its metadata is."""
        limits, metadata = self._limits, metadata_bytes(asked.metadata)
        if len(payload) > limits.payload_bytes:
            raise TooLarge(f"the payload has {len(payload)} bytes; {limits.payload_bytes} are allowed")
        if metadata > limits.metadata_bytes:
            raise TooLarge(f"the metadata has {metadata} bytes; {limits.metadata_bytes} are allowed")
        return len(payload) + metadata

    def _refuse(self, message: str) -> None:
        raise Overloaded(message, retry_after_ms=self._limits.retry_after_ms)

    def _give(self, task: Task, moment: Moment, offers: Offers) -> Decision | Stalled:
        """The task goes to an agent, or is over, or why it has to wait."""
        book = self._book
        deadline = book.entries[task.task_id].deadline
        if deadline <= moment.now:
            return self._stop(task, "expired", DeadlineExceeded(_late(task)))
        bound, running = book.bounds.get(task.capability), book.running[task.capability]
        if bound is not None and running >= bound:
            return Stalled(line_of(task.capability, task.model), f"{running} run; {bound} may run at a time")
        offer = offers(task.capability)
        load = book.load
        candidates = [each.candidate(load.in_flight(each.name), load.last_used(each.name)) for each in offer.providers]
        if task.model:
            return self._give_with_model(task, moment, offer, candidates)
        match choose(_wish(task), candidates, moment.now):
            case Chosen(name):
                return self._send(task, name, offer, moment)
            case Wait(_, detail):
                return Stalled(task.capability, detail)
            case _:
                return Stalled(task.capability, NOBODY)

    def _give_with_model(
        self, task: Task, moment: Moment, offer: Offer, candidates: Collection[Candidate]
    ) -> Decision | Stalled:
        lent = self._loans.lent(task.model)
        hosts = {candidate.host for candidate in candidates}
        by_host = {
            host: choose(_wish(task), [each for each in candidates if each.host == host], moment.now) for host in hosts
        }
        here = by_host.get(lent.host, Nobody()) if lent is not None else choose(_wish(task), candidates, moment.now)
        if lent is not None and isinstance(here, Chosen):
            return self._send(task, here.name, offer, moment, lent)
        free = frozenset(host for host, answer in by_host.items() if isinstance(answer, Chosen))
        busy = (host for host, answer in by_host.items() if isinstance(answer, Wait) and answer.reason is Reason.BUSY)
        match here:
            case Wait(_, detail):
                why = detail
            case Chosen():
                why = self._loans.reason(task.model)
            case _:
                why = f"{task.model} is on {lent.host}, where no agent offers it" if lent and hosts else NOBODY
        return Stalled(line_of(task.capability, task.model), why, free, free.union(busy), task.priority)

    def _send(self, task: Task, name: str, offer: Offer, moment: Moment, lent: ModelReady | None = None) -> Decision:
        entry = self._book.entries[task.task_id]
        verb = next(each.verb for each in offer.providers if each.name == name)
        fields = fields_for(task, entry.payload, lent)
        deadline = min(entry.deadline, moment.now + task.timeout_s)
        return Decision(
            (Started(task.task_id, name),), (Send(task.task_id, task.runs + 1, name, verb, fields, deadline),)
        )

    def _seq(self, task_id: str) -> int:
        return self._book.entries[task_id].task.seq

    def _settled(self, task_id: str, run: int) -> tuple[Fact, ...]:
        return (Settled(task_id, run),) if (task_id, run) in self._book.load.calls else ()

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


def fields_for(task: Task, payload: bytes, lent: ModelReady | None = None) -> dict[str, Any]:
    """What the agent's verb is called with: an object's fields, or any other payload as `data`, and what tells the task.

    With a model on loan, where that answers too.
    """
    fields = msgpack.decode(payload)
    if not isinstance(fields, dict):
        fields = {} if fields is None else {"data": fields}
    told: dict[str, Any] = {"task_id": task.task_id, "attempt": task.attempts + 1}
    if lent is not None:
        told["model"] = {
            "name": task.model,
            "url": lent.url,
            "upstream": lent.upstream,
            "host": lent.host,
            "engine": lent.engine,
        }
    return {"request_id": task.task_id} | fields | told


def _wish(task: Task) -> Wish:
    return Wish(task.host, frozenset(task.tried))


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
