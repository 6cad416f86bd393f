"""A stand-in for the shell: applies, commits and performs what the rules of the task queue decide, on manual clocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from common.api.leases import LeaseGranted
from common.api.models import ModelReady
from common.api.tasks import LimitTasks, SubmitTask, TaskState, TaskStatus
from common.dispatch.provider import Offer, Provider
from common.errors import TandemError
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from pc2.resource_manager.tasks import records, view
from pc2.resource_manager.tasks.book import TaskBook, metadata_bytes
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.lines import line_of
from pc2.resource_manager.tasks.loans import Ask, GiveBack, Loans
from pc2.resource_manager.tasks.queue import Tasks
from pc2.resource_manager.tasks.task import ACTIVE, Decision, Moment, Send, Withdraw

EPOCH = 1_800_000_000.0


def provider(name: str = "a", **changes: Any) -> Provider:
    known: dict[str, Any] = {"host": "pc2", "liveness": "alive", "verb": "say", "idempotent": False, "concurrency": 1}
    return Provider(name=name, **(known | changes))


def ready(model: str, host: str = "pc2") -> ModelReady:
    lease = LeaseGranted(f"lease-{model}", host, 0, "GPU-0", 7, 1e9, 0)
    return ModelReady(
        model, host, f"http://127.0.0.1:1/{model}", f"{model}.gguf", "llama-server", lease, 0.0, loaded=True
    )


class Bench:
    """One task queue without a network; `agents` are the providers of each capability."""

    def __init__(self, limits: Limits | None = None, **agents: list[Provider]) -> None:
        self.store = MemoryStore()
        self.limits = limits or Limits()
        self.agents: dict[str, list[Provider]] = agents
        self.now = 100.0
        self.wall = EPOCH
        self.names = 0
        self.open: dict[tuple[str, int], Send] = {}
        self.withdrawn: list[Withdraw] = []
        self.forgotten: set[str] = set()
        self.rng = random.Random(7)
        self.live()

    def live(self) -> None:
        """A life of the process begins; nothing is loaded yet."""
        self.book = TaskBook(self.limits)
        self.loans = Loans()
        self.asked: dict[str, Ask] = {}
        self.tasks = Tasks(self.book, self.rng, self.loans)

    @property
    def moment(self) -> Moment:
        return Moment(self.now, self.wall)

    def perform(self, decision: Decision) -> Decision:
        changes = []
        for fact in decision.facts:
            task = self.book.apply(fact, self.moment)
            changes += records.rows(fact, task)
            if type(fact).__name__ == "Forgotten":
                self.forgotten.add(fact.task_id)  # type: ignore[union-attr]
        self.store.commit(changes, Durability.FULL)
        for instruction in decision.instructions:
            if isinstance(instruction, Send):
                self.open[instruction.task_id, instruction.run] = instruction
            else:
                self.withdrawn.append(instruction)
        return decision

    def submit(self, capability: str = "say", payload: Any = None, identity: str = "me", **fields: Any) -> str:
        self.names += 1
        asked = SubmitTask(capability=capability, payload=payload, **fields)
        done = self.tasks.submit(asked, identity, "pc2", task_id=f"task-{self.names}", moment=self.moment)
        self.perform(done.decision)
        return done.task_id

    def dispatch(self) -> list[Send]:
        """As many as agents are free for."""
        sent: list[Send] = []
        while self.book.lines.awake:
            decision = self.perform(self.tasks.dispatch(self.moment, self.offers))
            sent += [each for each in decision.instructions if isinstance(each, Send)]
        return sent

    def lend(self) -> list[str]:
        """What is wanted of models is asked for or given back; told in short."""
        told = []
        for step in self.loans.look(self.book.wants.needs(self.book.lines), self.now):
            self.asked.pop(step.model, None)
            if isinstance(step, Ask):
                self.asked[step.model] = step
            told.append(
                f"{'ask' if isinstance(step, Ask) else 'back' if isinstance(step, GiveBack) else 'desist'} {step.model}"
            )
        return told

    def grant(self, model: str, host: str = "pc2") -> None:
        """The model that is asked for is there."""
        assert self.loans.granted(model, self.asked.pop(model).number, ready(model, host), self.now)
        self.book.lines.wake_model(model)

    def refuse(self, model: str, error: TandemError) -> None:
        """It cannot be had."""
        self.loans.refused(model, self.asked.pop(model).number, error, self.now)
        self.book.lines.wake_model(model)

    def lose_loan(self, model: str) -> None:
        """The model's loan ends under its tasks."""
        loan = self.loans._loans.get(model)
        if loan is not None:
            self.loans.lost(model, loan.number, "evicted", self.now)
            self.book.lines.wake_model(model)

    def offers(self, capability: str) -> Offer:
        return Offer(tuple(self.agents.get(capability, ())))

    def wake(self) -> None:
        self.book.lines.wake(self.book.lines.stalled())

    def answer(self, send: Send, result: Any = "ok") -> Decision:
        self.open.pop((send.task_id, send.run), None)
        return self.perform(self.tasks.answered(send.task_id, send.run, result))

    def fail(self, send: Send, error: TandemError) -> Decision:
        self.open.pop((send.task_id, send.run), None)
        return self.perform(self.tasks.failed(send.task_id, send.run, error, self.moment))

    def cancel(self, task_id: str) -> Decision:
        return self.perform(self.tasks.cancel(task_id))

    def replay(self, task_id: str) -> Decision:
        return self.perform(self.tasks.replay(task_id))

    def limit(self, capability: str, running: int | None) -> Decision:
        return self.perform(self.tasks.limit(LimitTasks(capability=capability, running=running)))

    def lose(self, agent_name: str) -> Decision:
        self.open = {call: send for call, send in self.open.items() if send.agent_name != agent_name}
        return self.perform(self.tasks.agent_lost(agent_name))

    def advance(self, seconds: float) -> None:
        """Time passes, and brings about what it does."""
        self.now += seconds
        self.wall += seconds
        self.each(lambda: self.tasks.expire(self.now))
        self.each(lambda: self.tasks.trim(self.now))
        self.book.lines.release(self.now)
        self.wake()

    def each(self, ask: Callable[[], Decision]) -> None:
        while (decision := ask()).facts:
            self.perform(decision)

    def restart(self, away_s: float = 0.0, clock_step_s: float = 0.0) -> None:
        """The process is killed and lives again; its monotonic clock may begin anywhere."""
        self.now = self.rng.uniform(0.0, 1e6)
        self.wall += away_s + clock_step_s
        self.open = {}
        self.live()
        records.load(self.store, self.book, self.moment)
        self.perform(self.tasks.resume())

    def status(self, task_id: str) -> TaskStatus:
        return view.status(self.book, self.book.entry(task_id))

    def state(self, task_id: str) -> TaskState:
        return self.book.entry(task_id).task.state

    def check(self) -> None:
        """What holds after every step."""
        book = self.book
        states = {task_id: entry.task.state for task_id, entry in book.entries.items()}
        indexed = [task_id for line in book.standing._lines.values() for task_id in line]
        assert sorted(indexed) == sorted(states), "a task is in two states or in none"
        for (state, capability), line in book.standing._lines.items():
            assert line, "an empty line is kept"
            assert all((states[each], book.entries[each].task.capability) == (state, capability) for each in line)
        assert {state: count for state, count in book.standing.counts.items() if count} == _counted(
            list(states.values())
        )
        lines = book.lines
        waiting = [name for agenda in lines.ready.values() for name in agenda._entries] + list(lines.delayed._entries)
        assert sorted(waiting) == sorted(name for name, state in states.items() if state == "queued")
        awake = {line: number for line, (number, _) in lines.awake._entries.items()}
        assert awake.keys() | lines.stalls.keys() == lines.ready.keys()
        assert not awake.keys() & lines.stalls.keys()
        assert all(lines.ready[line].first()[0] == rank for line, rank in awake.items())  # type: ignore[index]
        late = [line for line, _ in lines._later.values()]
        assert lines.late == {line: late.count(line) for line in late}
        assert {line for of in lines._with_model.values() for line in of} == {
            line for line in lines.ready if "\n" in line
        }
        calls = [entry_line for entry_line in book.calls._lines.values() if "\n" in entry_line]
        assert all(book.wants.running(line) == calls.count(line) for line in {*calls, *book.wants._wants})
        for line, want in book.wants._wants.items():
            assert line in lines.ready or (want.running and not want.able), "a want of nobody is kept"
        for line, agenda in book.active.arrivals.items():
            assert all(
                line_of(book.entries[each].task.capability, book.entries[each].task.model) == line
                for each in agenda._entries
            )
            assert book.queued(line) == sum(states[each] == "queued" for each in agenda._entries)
        running = {(name, book.entries[name].task.runs) for name, state in states.items() if state == "running"}
        assert running <= book.calls.load.calls.keys()
        assert sum(book.calls.running.values()) == len(book.calls.load.calls)
        active = [entry for entry in book.entries.values() if entry.task.state in ACTIVE]
        assert book.active.bytes == sum(entry.task.size for entry in active)
        for identity in {entry.task.identity for entry in book.entries.values()}:
            own = [entry.task for entry in active if entry.task.identity == identity]
            assert book.active.shares.active.of(identity) == len(own)
            assert book.active.shares.bytes.of(identity) == sum(task.size for task in own)
            for capability in {task.capability for task in own}:
                waiting = [task for task in own if (task.state, task.capability) == ("queued", capability)]
                assert book.active.shares.waiting.of(identity, capability) == len(waiting)
        assert book.standing.active == len(active) == sum(len(agenda) for agenda in book.active.arrivals.values())
        assert set(book.active.deadlines._entries) == {entry.task.task_id for entry in active if entry.task.deadline_at}
        ended = [entry for entry in book.entries.values() if entry.task.state not in ACTIVE]
        assert set(book.kept._sizes) == {entry.task.task_id for entry in ended}
        assert book.kept.bytes == sum(
            len(entry.payload) + len(entry.result) + metadata_bytes(entry.task.metadata) for entry in ended
        )
        for entry in book.entries.values():
            task = entry.task
            assert 0 <= task.attempts <= task.max_attempts
            assert task.attempts <= task.runs
            assert task.state != "dead" or task.attempts == task.max_attempts
            assert not (entry.result and task.state != "done")


def _counted(states: list[TaskState]) -> dict[TaskState, int]:
    return {state: states.count(state) for state in set(states)}
