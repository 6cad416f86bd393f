"""The book of tasks: what the facts add up to, and what can be asked of it.

Every change enters through `apply`; each state follows from the one before by the table in `task`, and a fact that does not
fit raises with the task's whole story. Nothing here grows slower with the number of tasks: who is next, what is due and what
may be forgotten are agendas, and tasks are counted as they move.

It decides nothing, sends nothing and reads no clock.
"""

from __future__ import annotations

from math import inf
from typing import Any

from msgspec import Struct, msgpack

from common.api.tasks import TaskState
from common.dispatch.ageing import rank
from common.errors import Internal, NotFound
from common.resilience.idempotency import Replies, ReplyForgotten, ReplyKept
from pc2.resource_manager.tasks.active import Active
from pc2.resource_manager.tasks.calls import Calls
from pc2.resource_manager.tasks.kept import Kept
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.lines import Lines, line_of, parts_of
from pc2.resource_manager.tasks.standing import Standing
from pc2.resource_manager.tasks.task import (
    ACTIVE,
    NEXT,
    TO_END,
    UNDONE,
    Accepted,
    Ended,
    Fact,
    Forgotten,
    LimitSet,
    Moment,
    Move,
    Replayed,
    ResultDropped,
    Returned,
    Settled,
    Stalled,
    Started,
    Task,
)
from pc2.resource_manager.tasks.wants import Wants


class Entry(Struct, gc=False):
    """A task with what is not in its row; `rank` and `deadline` are by the monotonic clock. Only the book changes it."""

    task: Task
    payload: bytes
    rank: float
    deadline: float = inf
    result: bytes = b""
    progress: Any = None
    parts: int = 0
    told_at: float = -inf


class TaskBook:
    """All tasks that are known; read freely, change through `apply`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.clear()

    def clear(self) -> None:
        """Knows nothing any more."""
        self.entries: dict[str, Entry] = {}
        self.replies = Replies()
        self.bounds: dict[str, int] = {}
        self.standing = Standing()
        self.active = Active()
        self.calls = Calls()
        self.lines = Lines()
        self.wants = Wants()
        self.kept = Kept()
        self.next_seq = 1

    def become(self, other: TaskBook) -> None:
        """Knows what the other book knows, which is nobody's any more."""
        self.__dict__.update(other.__dict__)

    # the fold

    def apply(self, fact: Fact, moment: Moment) -> Task | None:
        """Takes a fact in; returns the task where its state changed, to be published once that is committed."""
        match fact:
            case Accepted():
                return self._accept(fact.task, fact.payload, moment)
            case Started():
                return self._start(fact, moment)
            case Returned():
                return self._return(fact, moment)
            case Ended():
                return self._end(fact, moment)
            case Replayed():
                return self._replay(fact, moment)
            case _:
                self._note(fact, moment)
        return None

    def restore(self, task: Task, payload: bytes, result: bytes, moment: Moment) -> None:
        """Takes a stored task in; what was to happen after a time happens when its rest, by the wall clock, has passed.

        The rest is never longer than the whole, so that a clock that was set back makes nothing wait for ever. An ended task is
        kept for its whole time again: a clock that was set forward forgets nothing.
        """
        self.next_seq = max(self.next_seq, task.seq + 1)
        entry = self.entries[task.task_id] = Entry(task, payload, 0.0, result=result)
        self._enter(task)
        if task.state in ACTIVE:
            self._activate(entry, moment)
        else:
            self._keep(entry, moment)
        if task.state == "queued":
            self._line_up(entry, moment)
        elif task.state == "running":
            self._call(task)

    def hear(self, task_id: str, part: Any) -> None:
        """The agent streamed a part; the last that is not too large is shown."""
        entry = self.entries[task_id]
        entry.parts += 1
        if len(msgpack.encode(part)) <= self.limits.progress_bytes:
            entry.progress = part

    # questions

    def entry(self, task_id: str) -> Entry:
        """The task; NotFound when it never was or is no longer known."""
        entry = self.entries.get(task_id)
        if entry is None:
            raise NotFound(f"no task {task_id!r} is known")
        return entry

    def runs(self, task_id: str, run: int) -> bool:
        """Whether this run is the one the task waits for; what any other says is ignored."""
        entry = self.entries.get(task_id)
        return entry is not None and entry.task.state == "running" and entry.task.runs == run

    def waiting(self, capability: str) -> int:
        """Tasks of the capability that are queued."""
        return self.standing.number("queued", capability)

    def lines_known(self) -> set[str]:
        """The lines that have tasks waiting or running, or a limit."""
        return {*self.active.arrivals, *self.bounds}

    def queued(self, line: str) -> int:
        """Tasks of the line that are queued."""
        return len(self.lines.ready.get(line, ())) + self.lines.late[line]

    def latest(self, state: TaskState | None, capability: str, limit: int) -> list[Entry]:
        """The tasks of this state and capability (None, empty: of any), what changed last first."""
        return [self.entries[task_id] for task_id in self.standing.latest(state, capability, limit)]

    # inside: one move each

    def _accept(self, task: Task, payload: bytes, moment: Moment) -> Task:
        if task.task_id in self.entries:
            raise Internal(f"task {task.task_id} was accepted before")
        self.next_seq = max(self.next_seq, task.seq + 1)
        entry = self.entries[task.task_id] = Entry(task, payload, 0.0)
        self._enter(task)
        self._activate(entry, moment)
        self._line_up(entry, moment)
        return task

    def _start(self, fact: Started, moment: Moment) -> Task:
        entry = self._move(fact.task_id, Move.START)
        entry.progress, entry.parts = None, 0
        task = entry.task
        task.runs += 1
        task.attempts += 1
        task.agent_name, task.started_at = fact.agent_name, moment.wall
        self._call(task)
        return task

    def _return(self, fact: Returned, moment: Moment) -> Task:
        entry = self._move(fact.task_id, Move.RETURN)
        task = entry.task
        if not fact.counted:
            task.attempts -= 1
        if task.agent_name not in task.tried:
            task.tried = (*task.tried, task.agent_name)
        task.agent_name, task.reason = "", fact.why
        task.delay_s, task.run_at = fact.delay_s, moment.wall + fact.delay_s
        self._line_up(entry, moment)
        return task

    def _end(self, fact: Ended, moment: Moment) -> Task:
        entry = self._move(fact.task_id, TO_END[fact.state])
        task = entry.task
        task.code, task.error, task.ended_at = fact.code, fact.error, moment.wall
        self.active.drop(task)
        entry.result, entry.progress = fact.result, None
        if fact.state == "done":
            entry.payload = b""
        self._keep(entry, moment)
        return task

    def _replay(self, fact: Replayed, moment: Moment) -> Task:
        entry = self._move(fact.task_id, Move.REPLAY)
        task = entry.task
        self.kept.drop(task.task_id)
        task.reason = f"replayed; before that: {task.error}"
        task.replays += 1
        task.attempts, task.tried, task.agent_name, task.code, task.error = 0, (), "", "", ""
        task.queued_at = task.run_at = moment.wall
        task.delay_s = task.started_at = task.ended_at = 0.0
        task.deadline_at = moment.wall + task.deadline_s if task.deadline_s else 0.0
        self._activate(entry, moment)
        self._line_up(entry, moment)
        return task

    def _note(
        self,
        fact: ResultDropped | Forgotten | LimitSet | Settled | Stalled | ReplyKept | ReplyForgotten,
        moment: Moment,
    ) -> None:
        match fact:
            case ResultDropped():
                self._drop_result(self.entries[fact.task_id])
            case Forgotten():
                self._forget(fact.task_id)
            case LimitSet():
                self._bound(fact)
            case Settled():
                self._settle(fact)
            case Stalled():
                self._stall(fact, moment)
            case _:
                pass  # the replies took it in when they decided it

    def _settle(self, fact: Settled) -> None:
        line = self.calls.settle((fact.task_id, fact.run))
        capability, model = parts_of(line)
        if model:
            self.wants.settle(line)
        self.lines.wake((capability,))

    def _stall(self, fact: Stalled, moment: Moment) -> None:
        self.lines.stall(fact.line, fact.reason)
        if parts_of(fact.line)[1]:
            self.wants.stall(fact.line, fact.free, fact.able, fact.priority, moment.now)

    def _bound(self, fact: LimitSet) -> None:
        if fact.running is None:
            self.bounds.pop(fact.capability, None)
        else:
            self.bounds[fact.capability] = fact.running
        self.lines.wake((fact.capability,))

    def _drop_result(self, entry: Entry) -> None:
        entry.result = b""
        self.kept.drop_result(entry.task.task_id)

    def _forget(self, task_id: str) -> None:
        entry = self.entries.pop(task_id)
        if entry.task.state in ACTIVE:
            raise Internal(f"task {task_id} cannot be forgotten: {_story(entry.task)}")
        self.kept.drop(task_id)
        self._exit(entry.task)

    # inside: places

    def _move(self, task_id: str, move: Move) -> Entry:
        entry = self.entries.get(task_id)
        if entry is None:
            raise Internal(f"task {task_id} cannot {move}: it never was, or is forgotten")
        task = entry.task
        state = NEXT.get((task.state, move))
        if state is None:
            raise Internal(f"task {task_id} cannot {move}: {_story(task)}")
        if task.state == "queued":
            self._leave_line(task)
        self._exit(task)
        task.state = state
        self._enter(task)
        return entry

    def _enter(self, task: Task) -> None:
        self.standing.enter(task.task_id, task.state, task.capability)
        if task.state == "queued":
            self.active.shares.stand(1, task.identity, task.capability)

    def _exit(self, task: Task) -> None:
        self.standing.leave(task.task_id, task.state, task.capability)
        if task.state == "queued":
            self.active.shares.stand(-1, task.identity, task.capability)

    def _activate(self, entry: Entry, moment: Moment) -> None:
        task = entry.task
        entry.rank = rank(task.priority, moment.now - max(0.0, moment.wall - task.queued_at), self.limits.ageing_s)
        if task.deadline_at:
            entry.deadline = moment.now + min(task.deadline_s, task.deadline_at - moment.wall)
        self.active.add(task, entry.deadline)

    def _line_up(self, entry: Entry, moment: Moment) -> None:
        task = entry.task
        line = line_of(task.capability, task.model)
        wait_s = min(task.delay_s, task.run_at - moment.wall)
        if wait_s > 0.0:
            self.lines.delay(task.task_id, line, entry.rank, moment.now + wait_s)
        else:
            self.lines.join(task.task_id, line, entry.rank)

    def _leave_line(self, task: Task) -> None:
        line = line_of(task.capability, task.model)
        self.lines.leave(task.task_id, line)
        if task.model and line not in self.lines.ready:
            self.wants.empty(line)

    def _call(self, task: Task) -> None:
        self.calls.begin(task)
        if task.model:
            self.wants.begin(line_of(task.capability, task.model))

    def _keep(self, entry: Entry, moment: Moment) -> None:
        task = entry.task
        self.kept.add(
            task.task_id,
            ended_at=task.ended_at,
            until=moment.now + kept_s(task, self.limits),
            undone=task.state in UNDONE,
            payload=len(entry.payload) + metadata_bytes(task.metadata),
            result=len(entry.result),
        )


def metadata_bytes(metadata: dict[str, Any]) -> int:
    """What a task's metadata counts for against the limits."""
    return len(msgpack.encode(metadata)) if metadata else 0


def kept_s(task: Task, limits: Limits) -> float:
    """For how many seconds after its end the task is kept."""
    return max(task.retain_s, limits.undone_s) if task.state in UNDONE else task.retain_s


def _story(task: Task) -> str:
    return (
        f"it is {task.state}; {task.capability}, priority {task.priority}, from {task.identity or 'nobody known'}, "
        f"attempt {task.attempts} of {task.max_attempts}, run {task.runs} at {task.agent_name or 'nobody'}, "
        f"replayed {task.replays} times"
    )
