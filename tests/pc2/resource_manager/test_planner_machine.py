"""Whatever links, supervisors, callers, stores and crashes do, no request is both refused and granted, and no lease is lost."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.api.gpus import CardsSampled
from common.api.leases import AcquireLease, LeaseGranted, Leases, ReleaseLease
from common.api.words import Cursor
from common.errors import Interrupted, TandemError
from common.store.memory import MemoryStore
from common.store.protocol import Durability
from common.vram.amount import GIB
from common.vram.cards import CardSample
from common.vram.lease_decision import Announce
from common.vram.lease_decision import Decision as TableDecision
from common.vram.lease_table import LeaseTable
from pc2.resource_manager import intents
from pc2.resource_manager.events import (
    Admitted,
    Asked,
    CardsSeen,
    Event,
    HostBack,
    HostLost,
    LeaseSeen,
    OutOfTime,
    Refused,
    Returned,
    Tick,
    Withdrawn,
)
from pc2.resource_manager.instructions import AskSupervisor, Decision, Progress, Reply, ReplyError, ReturnLease
from pc2.resource_manager.planner import Planner

SIZES = {"mainpc": 24, "pc2": 12}
HOSTS = sorted(SIZES)
hosts = st.sampled_from(HOSTS)


class Supervisor:
    """A lease table behind a link; what is sent lies in the link until it is delivered or the link dies."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = False
        self.table = LeaseTable(name)
        self.asked: deque[AskSupervisor | ReturnLease] = deque()
        self.unanswered: deque[AskSupervisor | ReturnLease] = deque()
        self.answers: deque[Event] = deque()
        for fact in self.table.open_epoch().facts:
            self.table.apply(fact, 0.0)

    def look(self, now: float) -> CardsSeen:
        total = SIZES[self.name] * GIB
        sample = CardSample(
            host=self.name,
            index=0,
            uuid=f"GPU-{self.name}",
            name="card",
            total_bytes=total,
            free_bytes=total,
            used_bytes=0,
            sampled_at=now,
        )
        self.table.measure([sample], {})
        return CardsSeen(self.name, CardsSampled(host=self.name, cards=self.table.cards(now)))

    def leases(self, now: float) -> Leases:
        return Leases(leases=self.table.leases(now), as_of=Cursor(epoch=1, seq=1))

    def apply(self, decision: TableDecision, now: float) -> None:
        for fact in decision.facts:
            self.table.apply(fact, now)
        for each in decision.instructions:
            if isinstance(each, Announce) and self.up:
                self.answers.append(LeaseSeen(self.name, each.change))
        if decision.facts and self.up:
            self.answers.append(self.look(now))

    def work(self, now: float) -> None:
        asked = self.asked.popleft()
        self.unanswered.append(asked)
        if isinstance(asked, AskSupervisor):
            decision = self.table.admit(asked.request, now, "")
            reply = decision.reply
            lease_id = asked.request.lease_id
            answer: Event
            if isinstance(reply, LeaseGranted):
                answer = Admitted(lease_id, reply)
            else:
                assert isinstance(reply, TandemError)
                answer = Refused(lease_id, asked.attempt, reply)
        else:
            decision = self.table.release(asked.request, now, "")
            answer = Returned(
                asked.request.lease_id, decision.reply if isinstance(decision.reply, TandemError) else None
            )
        self.apply(decision, now)
        self.answers.append(answer)

    def cut(self, now: float, reached: int) -> list[Event]:
        """The link dies: of what was sent, `reached` were still done; the sender knows only that it does not know."""
        lost = [_unknown(asked) for asked in (*self.unanswered, *self.asked)]
        for _ in range(min(reached, len(self.asked))):
            self.work(now)
        self.up = False
        self.asked.clear()
        self.unanswered.clear()
        self.answers.clear()
        return lost

    def answer(self) -> Event:
        """The next thing the link brings."""
        event = self.answers.popleft()
        if isinstance(event, Admitted | Refused | Returned):
            self.unanswered.popleft()
        return event


def _unknown(asked: AskSupervisor | ReturnLease) -> Event:
    if isinstance(asked, AskSupervisor):
        return Refused(asked.request.lease_id, asked.attempt, Interrupted("cut"))
    return Returned(asked.request.lease_id, Interrupted("cut"))


class Planning(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1_000))
    def start(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.store = MemoryStore()
        self.supervisors = {host: Supervisor(host) for host in HOSTS}
        self.planner = Planner(HOSTS, self.rng)
        self.calls = 0
        self.open: dict[str, tuple[float, str]] = {}
        self.outcome: dict[str, str] = {}
        self.holders: dict[str, list[str]] = {}
        self.by_key: dict[str, set[str]] = {}
        self.commits_fail = False
        for host in HOSTS:
            self.link_comes_back(host)

    def feed(self, event: Event) -> None:
        self.perform(self.planner.handle(event, self.now, f"{self.now:012.3f}"))

    def perform(self, decision: Decision) -> None:
        if decision.facts and self.commits_fail:
            self.commits_fail = False
            self.perform(self.planner.undo(decision, self.now, f"{self.now:012.3f}"))
            return
        for fact in decision.facts:
            self.store.commit(intents.rows(fact), Durability.NORMAL)
        later: list[Event] = []
        for each in decision.instructions:
            if isinstance(each, AskSupervisor | ReturnLease):
                if self.supervisors[each.host].up:
                    self.supervisors[each.host].asked.append(each)
                else:
                    later.append(_unknown(each))
            elif isinstance(each, Reply):
                self.settle(each.call, each.granted.lease_id)
                self.holders.setdefault(each.granted.lease_id, []).append(each.call)
            elif isinstance(each, ReplyError):
                self.settle(each.call, "error")
            elif isinstance(each, Progress):
                assert each.call in self.open
                assert each.progress.position >= 1
        for event in later:
            self.feed(event)

    def settle(self, call: str, outcome: str) -> None:
        assert call not in self.outcome, f"{call} was answered twice"
        assert call in self.open
        _, key = self.open.pop(call)
        self.outcome[call] = outcome
        if key and outcome != "error":
            self.by_key.setdefault(key, set()).add(outcome)

    @rule(
        need=st.sampled_from([1, 5, 10, 11, 20, 30]),
        wait=st.sampled_from([0.0, 3.0, 100.0]),
        key=st.sampled_from(["", "", "k1", "k2"]),
        host=st.sampled_from(["", "", "mainpc", "pc2"]),
        priority=st.sampled_from([0, 50, 100]),
    )
    def a_caller_asks(self, need: int, wait: float, key: str, host: str, priority: int) -> None:
        self.calls += 1
        call = f"c{self.calls}"
        self.open[call] = self.now + wait, key
        if key:
            need, host, priority = 5, "", 50
        request = AcquireLease(
            model="m", bytes=need * GIB, wait_s=wait, idempotency_key=key, host=host, priority=priority, ttl_s=10**6
        )
        self.feed(Asked(call, request, "anna"))

    @rule(pick=st.integers(0, 5))
    def a_caller_withdraws(self, pick: int) -> None:
        if self.open:
            call = sorted(self.open)[pick % len(self.open)]
            del self.open[call]
            self.outcome[call] = "withdrawn"
            self.feed(Withdrawn(call))

    @rule(pick=st.integers(0, 5))
    def the_time_of_a_caller_ends(self, pick: int) -> None:
        if self.open:
            call = sorted(self.open)[pick % len(self.open)]
            self.feed(OutOfTime(call))
            assert call not in self.open

    @rule(host=hosts)
    def a_supervisor_works(self, host: str) -> None:
        supervisor = self.supervisors[host]
        if supervisor.asked and supervisor.up:
            supervisor.work(self.now)

    @rule(host=hosts)
    def an_answer_arrives(self, host: str) -> None:
        if self.supervisors[host].answers:
            self.feed(self.supervisors[host].answer())

    @rule()
    def everything_is_done_and_answered(self) -> None:
        for supervisor in self.supervisors.values():
            while supervisor.up and (supervisor.asked or supervisor.answers):
                if supervisor.asked:
                    supervisor.work(self.now)
                if supervisor.answers:
                    self.feed(supervisor.answer())

    @rule(host=hosts, told_first=st.booleans(), reached=st.integers(0, 3))
    def a_link_dies(self, host: str, told_first: bool, reached: int) -> None:
        supervisor = self.supervisors[host]
        if not supervisor.up:
            return
        lost = supervisor.cut(self.now, reached)
        if told_first:
            self.feed(HostLost(host, "link down"))
        for event in lost:
            self.feed(event)
        self.feed(HostLost(host, "link down"))

    @rule(host=hosts)
    def link_comes_back(self, host: str) -> None:
        supervisor = self.supervisors[host]
        if not supervisor.up:
            supervisor.up = True
            self.feed(HostBack(host, supervisor.leases(self.now)))
            self.feed(supervisor.look(self.now))

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for supervisor in self.supervisors.values():
            look = supervisor.look(self.now)
            if supervisor.up:
                supervisor.answers.append(look)
        self.feed(Tick())

    @rule(pick=st.integers(0, 5), host=hosts)
    def a_holder_gives_back(self, pick: int, host: str) -> None:
        supervisor = self.supervisors[host]
        held = [each for each in supervisor.table.leases(self.now) if each.lease_id in self.holders]
        if held:
            each = held[pick % len(held)]
            release = ReleaseLease(lease_id=each.lease_id, fencing_token=each.fencing_token)
            supervisor.apply(supervisor.table.release(release, self.now, ""), self.now)

    @rule()
    def the_next_commit_fails(self) -> None:
        self.commits_fail = True

    @rule(reached=st.integers(0, 3))
    def the_planner_is_killed(self, reached: int) -> None:
        for supervisor in self.supervisors.values():
            supervisor.cut(self.now, reached)
        for call in self.open:
            self.outcome[call] = "cut off"
        self.open.clear()
        self.planner = Planner(HOSTS, self.rng)
        self.planner.restore(intents.load(self.store), self.now)

    @invariant()
    def no_card_is_leased_beyond_its_size(self) -> None:
        for host, supervisor in self.supervisors.items():
            assert sum(lease.bytes for lease in supervisor.table.leases(self.now)) <= SIZES[host] * GIB

    @invariant()
    def a_key_is_never_granted_twice_at_once(self) -> None:
        live = {each.lease_id for one in self.supervisors.values() for each in one.table.leases(self.now)}
        for lease_ids in self.by_key.values():
            assert len(lease_ids & live) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "supervisors"):
            return
        self.commits_fail = False
        for host in HOSTS:
            self.link_comes_back(host)
        for _ in range(120):
            self.everything_is_done_and_answered()
            self.time_passes(1.0)
        assert not self.open, "a wait did not end"
        for supervisor in self.supervisors.values():
            for lease in supervisor.table.leases(self.now):
                kept = {intent.lease_id for intent in intents.load(self.store) if intent.request.idempotency_key}
                assert lease.lease_id in self.holders or lease.lease_id in kept, f"{lease.lease_id} is lost"


TestPlanning = Planning.TestCase
TestPlanning.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
