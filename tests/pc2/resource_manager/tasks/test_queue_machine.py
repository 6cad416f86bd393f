"""The task queue under any order of events, kills and clock steps included: its invariants hold after every step."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.errors import (
    BadRequest,
    Conflict,
    IdempotencyMismatch,
    Internal,
    Interrupted,
    NoCapacity,
    NotFound,
    Overloaded,
    TandemError,
    Unavailable,
)
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.lines import line_of
from pc2.resource_manager.tasks.task import ACTIVE, Send
from tests.pc2.resource_manager.tasks.bench import Bench, provider

LIMITS = Limits(queued=6, active=12, active_bytes=1_024, kept=8, kept_bytes=200, backoff_s=1.0, backoff_max_s=4.0)
CAPABILITIES = ("say", "sing")
MODELS = ("", "", "qwen", "flux")
ERRORS: tuple[TandemError, ...] = (
    Internal("no luck"),
    Interrupted("gone"),
    Unavailable("away", retry_after_ms=300),
    Overloaded("busy"),
    BadRequest("never"),
)
REFUSALS: tuple[TandemError, ...] = (NoCapacity("no room"), NotFound("no such model"))


class QueueMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.bench = Bench(LIMITS)
        self.here = {"a": provider("a", concurrency=2), "b": provider("b"), "c": provider("c", host="mainpc")}
        self.offer = {"say": {"a", "b"}, "sing": {"b", "c"}}
        self.acknowledged: set[str] = set()
        self.done: set[str] = set()
        self.arrange()

    def arrange(self) -> None:
        self.bench.agents = {
            capability: [self.here[name] for name in sorted(names)] for capability, names in self.offer.items()
        }

    @rule(
        capability=st.sampled_from(CAPABILITIES),
        model=st.sampled_from(MODELS),
        size=st.integers(0, 300),
        priority=st.integers(0, 100),
        delay_s=st.sampled_from([0.0, 0.0, 3.0]),
        deadline_s=st.sampled_from([None, None, 2.0, 9.0]),
        max_attempts=st.integers(1, 3),
        retain_s=st.sampled_from([0.0, 5.0, 600.0]),
        key=st.sampled_from(["", "", "k1", "k2"]),
        at_once=st.booleans(),
    )
    def submit(self, capability: str, size: int, key: str, at_once: bool, **fields: object) -> None:
        try:
            task_id = self.bench.submit(capability, "x" * size, idempotency_key=key, **fields)
        except (Overloaded, IdempotencyMismatch):
            return
        self.acknowledged.add(task_id)
        if at_once:
            self.dispatch()

    @rule()
    def dispatch(self) -> None:
        for send in self.bench.dispatch():
            agents = self.bench.agents[self.bench.book.entries[send.task_id].task.capability]
            assert send.agent_name in {agent.name for agent in agents}
            assert send.fields["task_id"] == send.task_id
            self.has_its_model(send)
        for name, agent in self.here.items():
            assert self.bench.book.calls.load.in_flight(name) <= agent.concurrency

    def has_its_model(self, send: Send) -> None:
        task = self.bench.book.entries[send.task_id].task
        lent = self.bench.loans.lent(task.model)
        assert ("model" in send.fields) == bool(task.model)
        if task.model:
            assert lent is not None
            assert lent.host == self.here[send.agent_name].host
            assert send.fields["model"]["url"] == lent.url

    @rule(data=st.data(), host=st.sampled_from(["pc2", "mainpc"]), error=st.sampled_from([None, None, *REFUSALS]))
    def a_model_is_lent_or_refused(self, data: st.DataObject, host: str, error: TandemError | None) -> None:
        self.dispatch()
        for step in self.bench.lend():
            verb, model = step.split()
            running = sum(self.bench.book.wants.running(line_of(each, model)) for each in CAPABILITIES)
            assert verb != "back" or not running, "a model was given back while tasks ran on it"
        if self.bench.asked:
            model = data.draw(st.sampled_from(sorted(self.bench.asked)))
            if error is None:
                self.bench.grant(model, self.bench.asked[model].host or host)
            else:
                self.bench.refuse(model, error)

    @rule(model=st.sampled_from(["qwen", "flux"]))
    def a_loan_is_lost(self, model: str) -> None:
        self.bench.lose_loan(model)

    @rule(data=st.data(), error=st.sampled_from([None, *ERRORS]))
    def an_agent_answers(self, data: st.DataObject, error: TandemError | None) -> None:
        if not self.bench.open:
            return
        send = self.bench.open[data.draw(st.sampled_from(sorted(self.bench.open)))]
        if error is None:
            self.bench.answer(send)
        else:
            self.bench.fail(send, error)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.acknowledged:
            try:
                self.bench.cancel(data.draw(st.sampled_from(sorted(self.acknowledged))))
            except NotFound:
                return

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if self.acknowledged:
            try:
                self.bench.replay(data.draw(st.sampled_from(sorted(self.acknowledged))))
            except (NotFound, Conflict, Overloaded):
                return

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.advance(seconds)

    @rule(capability=st.sampled_from(CAPABILITIES), running=st.sampled_from([None, 0, 1]))
    def limit(self, capability: str, running: int | None) -> None:
        self.bench.limit(capability, running)

    @rule(name=st.sampled_from("abc"), capability=st.sampled_from(CAPABILITIES))
    def an_agent_comes_or_goes(self, name: str, capability: str) -> None:
        self.offer[capability] ^= {name}
        self.arrange()
        self.bench.wake()

    @rule(name=st.sampled_from("abc"))
    def an_agent_is_lost(self, name: str) -> None:
        self.bench.lose(name)

    @rule(away_s=st.sampled_from([0.0, 4.0]), step_s=st.sampled_from([0.0, 0.0, -3_600.0, 3_600.0]))
    def killed(self, away_s: float, step_s: float) -> None:
        before = {task_id: self.bench.state(task_id) for task_id in self.bench.book.entries}
        bounds = dict(self.bench.book.bounds)
        self.bench.restart(away_s, step_s)
        assert self.bench.book.bounds == bounds
        for task_id, state in before.items():
            now = self.bench.state(task_id)
            assert now == state or (state == "running" and now in ("queued", "dead"))

    @invariant()
    def no_model_is_kept_that_nobody_wants(self) -> None:
        if self.bench.book.lines.awake:
            return
        self.bench.lend()
        needs = self.bench.book.wants.needs(self.bench.book.lines)
        for model in ("qwen", "flux"):
            lent, need = self.bench.loans.lent(model), needs.get(model)
            assert lent is None or (need is not None and (need.running or (need.waits and lent.host in need.able)))

    @invariant()
    def nothing_acknowledged_vanishes(self) -> None:
        known = set(self.bench.book.entries)
        assert known | self.bench.forgotten >= self.acknowledged
        assert not any(
            entry.task.state in ACTIVE for task_id, entry in self.bench.book.entries.items() if task_id in self.done
        )
        self.done = {task_id for task_id in known if self.bench.state(task_id) == "done"}
        self.bench.check()

    def teardown(self) -> None:
        """Once agents and models are there, everything that waits is done."""
        if not hasattr(self, "bench"):
            return
        bench, self.offer = self.bench, {capability: {"a", "b", "c"} for capability in CAPABILITIES}
        self.arrange()
        for capability in CAPABILITIES:
            bench.limit(capability, None)
        for _ in range(100):
            bench.advance(5.0)
            bench.dispatch()
            bench.lend()
            for model in sorted(bench.asked):
                bench.grant(model, bench.asked[model].host or "pc2")
            self.dispatch()
            for send in list(bench.open.values()):
                bench.answer(send)
            bench.check()
        assert bench.book.standing.active == 0
        bench.lend()
        assert len(bench.loans) == 0


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
