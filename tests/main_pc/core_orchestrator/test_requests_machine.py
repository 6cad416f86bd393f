from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from common.api.core_orchestrator import RequestStatus
from common.errors import BadRequest, Interrupted, NoProvider, Overloaded, TandemError, Unavailable
from main_pc.core_orchestrator.instructions import Send
from main_pc.core_orchestrator.request_book import RequestBook
from main_pc.core_orchestrator.request_facts import load
from main_pc.core_orchestrator.request_limits import Limits
from main_pc.core_orchestrator.requests import Caller
from main_pc.core_orchestrator.waiters import FINAL
from tests.main_pc.core_orchestrator.desk import Desk, provider

LIMITS = Limits(queued=4, active=6, attempts=3, ageing_s=0.5, deadline_s=40.0, nobody_s=5.0, kept=8, kept_bytes=40)
SHARED = provider("both", concurrency=2)
AGENTS: dict[str, list[Any]] = {
    "text": [provider("careful", idempotent=False), SHARED],
    "audio": [SHARED, provider("slow", host="pc2")],
}
CAPABILITIES = st.sampled_from(["text", "audio"])
ERRORS = st.sampled_from(
    [Unavailable("down"), Interrupted("gone"), BadRequest("no"), Overloaded("full", retry_after_ms=9)]
)


def durable(book: RequestBook) -> dict[str, Any]:
    """What a restart must find again, but for the results and ends that retention may let go."""
    return {
        "queued": [(request_id, r.asked, r.attempts) for request_id, r in book.active.items()],
        "ended": {request_id: ended.fact for request_id, ended in book.ended.items()},
    }


def whole(book: RequestBook) -> dict[str, Any]:
    return {name: value for name, value in vars(book).items() if name not in ("limits", "shares")}


class RequestsMachine(RuleBasedStateMachine):
    """Callers, agents, deaths, time and restarts in any order."""

    sends = Bundle("sends")

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(LIMITS, **AGENTS)
        self.accepted: dict[str, RequestStatus] = {}
        self.ended: dict[str, str] = {}
        self.restarted = False

    @rule(
        capability=CAPABILITIES, priority=st.sampled_from([0, 50, 100]), key=st.sampled_from(["", "", "k1", "k2"]),
        deadline_s=st.sampled_from([None, 3.0]), who=st.sampled_from(["me", "you"]),
    )  # fmt: skip
    def submit(self, capability: str, priority: int, key: str, deadline_s: float | None, who: str) -> None:
        key = key and f"{key}-{capability}-{priority}-{deadline_s}"
        known = self.desk.book.known(who, key) if key else None
        asked: dict[str, Any] = {"priority": priority, "idempotency_key": key, "deadline_s": deadline_s}
        full = self.full(capability)
        is_newcomer = all(request.asked.identity != who for request in self.desk.book.active.values())
        try:
            request_id = self.desk.submit(capability, Caller(who, "mainpc"), **asked)
        except NoProvider:
            assert known is None
        except Overloaded:
            assert known is None
            assert full or not is_newcomer
        else:
            assert known is None or known[0] == request_id
            self.accepted[request_id] = self.desk.status(request_id)

    def full(self, capability: str) -> bool:
        book = self.desk.book
        return len(book.queues.get(capability, ())) >= LIMITS.queued or len(book.active) >= LIMITS.active

    @rule(target=sends)
    def dispatch(self) -> Any:
        waiting = {c: [r for _, _, r in queue if self.desk.book.active[r].not_before <= self.desk.now
                       and self.desk.book.active[r].deadline > self.desk.now]
                   for c, queue in self.desk.book.queues.items()}  # fmt: skip
        sent = self.desk.dispatch()
        for capability, queue in waiting.items():
            chosen = [send.request_id for send in sent if send.request_id in queue]
            assert chosen == queue[: len(chosen)], f"{capability} was not served in order"
        return sent[-1] if sent else None

    @rule(send=consumes(sends), result=st.sampled_from([None, "x" * 30]))
    def answer(self, send: Send | None, result: object) -> None:
        if send:
            self.desk.answer(send, result)

    @rule(send=consumes(sends), error=ERRORS)
    def fail(self, send: Send | None, error: TandemError) -> None:
        if send:
            self.desk.fail(send, error)

    @rule(send=sends)
    def answer_and_keep_talking(self, send: Send | None) -> None:
        if send:
            self.desk.answer(send)

    @rule(agent=st.sampled_from(["careful", "both", "slow"]))
    def lose(self, agent: str) -> None:
        self.desk.lose(agent)

    @rule(index=st.integers(0, 50))
    def cancel(self, index: int) -> None:
        alive = list(self.desk.book.active)
        if alive:
            self.desk.cancel(alive[index % len(alive)])

    @rule(passed_s=st.sampled_from([0.1, 1.0, 6.0, 45.0]))
    def time_passes(self, passed_s: float) -> None:
        self.desk.now += passed_s
        self.desk.expire()
        assert all(request.deadline > self.desk.now for request in self.desk.book.active.values())

    @rule()
    def everyone_leaves_or_comes_back(self) -> None:
        self.desk.agents = {} if self.desk.agents else dict(AGENTS)

    @rule()
    def trim(self) -> None:
        self.desk.trim()
        assert len(self.desk.book.ended) <= LIMITS.kept
        assert self.desk.book.kept_bytes <= LIMITS.kept_bytes

    @rule()
    def restart(self) -> None:
        before = durable(self.desk.book)
        fresh = RequestBook(LIMITS)
        fresh.load(load(self.desk.store), self.desk.now)
        after = durable(fresh)
        assert sorted(after["queued"]) == sorted(before["queued"], key=lambda entry: entry[0])
        assert after["ended"] == before["ended"]
        self.desk.restart()
        self.restarted = True
        assert self.desk.book.calls == {}
        assert all(request.state == "queued" for request in self.desk.book.active.values())

    @invariant()
    def every_accepted_request_is_in_one_place_until_retention_lets_it_go(self) -> None:
        book = self.desk.book
        assert not book.active.keys() & book.ended.keys()
        for request_id in self.accepted:
            if request_id not in book.active and request_id not in book.ended:
                assert self.ended[request_id] in FINAL

    @invariant()
    def an_end_is_the_end(self) -> None:
        for request_id, ended in self.desk.book.ended.items():
            assert self.ended.setdefault(request_id, ended.fact.state) == ended.fact.state

    @invariant()
    def queues_hold_the_queued_in_order_and_no_other(self) -> None:
        book = self.desk.book
        queued = {place[2] for queue in book.queues.values() for place in queue}
        assert queued == {request_id for request_id, request in book.active.items() if request.state == "queued"}
        for capability, queue in book.queues.items():
            assert queue == sorted(queue)
            assert all(book.active[request_id].asked.capability == capability for _, _, request_id in queue)
            assert [book.status(request_id).position for _, _, request_id in queue] == list(range(1, len(queue) + 1))

    @invariant()
    def a_running_request_has_its_call_and_agents_keep_to_their_limits(self) -> None:
        book = self.desk.book
        for request in book.active.values():
            if request.state == "running":
                assert book.calls[request.asked.request_id, request.attempts] == request.agent_name
            assert request.attempts <= LIMITS.attempts
        for agent, limit in (("careful", 1), ("both", 2), ("slow", 1)):
            assert book.in_flight(agent) == len(list(book.calls_to(agent))) <= limit

    @invariant()
    def the_sums_are_right(self) -> None:
        book = self.desk.book
        assert book.active_bytes == sum(request.asked.size() for request in book.active.values())
        assert book.kept_bytes == sum(len(ended.fact.result) for ended in book.ended.values())
        for who in ("me", "you"):
            own = [request for request in book.active.values() if request.asked.identity == who]
            assert book.shares.active.of(who) == len(own)
            assert book.shares.bytes.of(who) == sum(request.asked.size() for request in own)
            for capability in AGENTS:
                waiting = [each for each in own if (each.state, each.asked.capability) == ("queued", capability)]
                assert book.shares.waiting.of(who, capability) == len(waiting)
        assert book.stalls.keys() <= book.queues.keys()

    @invariant()
    def the_tables_hold_the_present_and_no_more(self) -> None:
        book, tables = self.desk.book, self.desk.store.tables
        assert tables.get("requests", {}).keys() == book.active.keys()
        assert tables.get("request_runs", {}).keys() == {
            key for key, request in book.active.items() if request.attempts
        }
        assert tables.get("request_ends", {}).keys() == book.ended.keys()
        assert tables.get("request_results", {}).keys() == book.results.keys()

    @invariant()
    def facts_replay_to_the_same_book(self) -> None:
        if self.restarted:
            return
        replayed = RequestBook(LIMITS)
        for fact, now in self.desk.facts:
            replayed.apply(fact, now)
        assert whole(replayed) == whole(self.desk.book)

    def teardown(self) -> None:
        """Every wait ends: with everyone gone for good, time alone ends all that is left."""
        self.desk.agents = {}
        self.desk.now += 100.0
        self.desk.expire()
        assert self.desk.book.active == {}


RequestsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRequestsMachine = RequestsMachine.TestCase
