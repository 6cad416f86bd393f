from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.schema import Agent, HealthProbe, Ports, Restart, Startup, Stop
from common.config.units import Duration
from common.errors import NotFound, Unavailable
from common.supervisor.desk import PATIENCE_S, Desk
from common.supervisor.first_start import FirstStart
from common.supervisor.instructions import (
    Adopted,
    Asked,
    Changed,
    Event,
    Exited,
    Finished,
    Instruction,
    Kill,
    Launch,
    Launched,
    OperationEnded,
    PeerHeard,
    PeerLost,
    Probe,
    Probed,
    ShutdownAsked,
    Terminate,
    Tick,
)
from common.supervisor.lifecycle import State


def agent(name: str, *depends_on: str, after: tuple[str, ...] = (), enabled: bool = True, attempts: int = 1) -> Agent:
    return Agent(
        name=name,
        command=["x"],
        depends_on=list(depends_on),
        after=list(after),
        enabled=enabled,
        health=HealthProbe(ready_within_s=Duration(10)),
        stop=Stop(term_s=Duration(5)),
        restart=Restart(attempts=attempts, delay_s=Duration(1), jitter=0),
    )


def desk(*agents: Agent) -> Desk:
    return Desk(Startup(version=1, host="h", supervisor=Ports(), agents=list(agents)), random.Random(1), 0.0)


def come_up(desk: Desk, name: str, at: float, life: int = 1) -> list[Instruction]:
    desk.handle(Launched(name, life, at, 100, 5))
    return desk.handle(Probed(name, life, at, ready=True))


def test_those_who_depend_on_nobody_start_at_once_and_others_as_gates_open() -> None:
    one = desk(agent("c", "b"), agent("b", "a"), agent("a"), agent("x"))
    begun = one.begin(0.0)
    assert [i for i in begun if isinstance(i, Launch)] == [Launch("a", 1), Launch("x", 1)]
    assert Changed("c", "stopped", "starting") in begun
    assert one.standing("c", 0.0).waiting_for == "b (waiting)"
    assert one.handle(Launched("a", 1, 0.1, 100, 5)) == [Probe("a", 1)]
    assert one.handle(Probed("a", 1, 0.2, ready=True)) == [Changed("a", "starting", "ready"), Launch("b", 1)]
    assert come_up(one, "b", 0.3) == [Changed("b", "starting", "ready"), Launch("c", 1)]
    come_up(one, "c", 0.4)
    come_up(one, "x", 0.4)
    assert FirstStart().verdict(one.standings(0.5), 0.5) == "ready"


def test_a_process_of_another_host_opens_a_gate_when_heard_ready() -> None:
    one = desk(agent("a", "o/x"))
    one.begin(0.0)
    assert one.standing("a", 0.0).waiting_for == "o/x (o was not heard of)"
    assert one.handle(PeerHeard("o", "x", "starting", 1.0)) == []
    assert one.handle(PeerLost("o", 1.5)) == []
    assert one.standing("a", 1.5).phase == "starting"
    assert one.handle(PeerHeard("o", "x", "ready", 2.0)) == [Launch("a", 1)]


def test_the_table_tells_what_a_process_said_of_its_end_and_no_record_about_something_else() -> None:
    record = '{"at":"2026-01-31T12:00:00.123Z","level":"info","logger":"a","message":"loaded"}'
    for tail, told in (((record,), "killed by signal 9"), (("no model", record), "killed by signal 9: no model")):
        one = desk(agent("a"))
        one.begin(0.0)
        come_up(one, "a", 0.1)
        one.handle(Exited("a", 1, 1.0, -9, stderr_tail=tail))
        assert one.standing("a", 1.0).waiting_for == f"restart 1 of 1 in 1.0 s after {told}"


def test_the_death_of_a_dependency_restarts_nobody() -> None:
    one = desk(agent("a"), agent("b", "a"))
    one.begin(0.0)
    come_up(one, "a", 0.1)
    come_up(one, "b", 0.2)
    assert one.handle(Exited("a", 1, 1.0, -9)) == [Changed("a", "ready", "starting")]
    assert one.standing("b", 1.0).phase == "ready"
    assert one.standing("a", 1.0).waiting_for == "restart 1 of 1 in 1.0 s after killed by signal 9"
    assert one.next_at() == 2.0
    assert one.handle(Tick(2.0)) == [Launch("a", 2)]
    assert one.handle(Exited("b", 1, 2.1, 1)) == [Changed("b", "ready", "starting")]
    assert one.handle(Tick(3.1)) == [Launch("b", 2)]


def test_a_start_is_over_when_the_rest_waits_for_what_has_given_up() -> None:
    one = desk(agent("a", attempts=0), agent("b", "a"), agent("c", "b"), agent("off", enabled=False))
    first_start = FirstStart()
    for instruction in one.begin(0.0):
        first_start.note(instruction, 0.0)
    assert first_start.verdict(one.standings(0.0), 0.0) == "starting"
    one.handle(Exited("a", 1, 1.0, 3, stderr_tail=("boom",)))
    assert first_start.verdict(one.standings(1.0), 1.0) == "failed"
    unready = first_start.missing(one.standings(1.0))
    assert [(s.entry.name, s.phase, s.waiting_for) for s in unready] == [
        ("a", "crash-looping", ""),
        ("b", "starting", "a (crash-looping)"),
        ("c", "starting", "b (waiting)"),
    ]
    assert unready[0].last_exit == "exit 3; ended 1 times within 60 s"
    assert unready[0].stderr_tail == ("boom",)
    assert one.standing("off", 1.0).waiting_for == "being enabled"


def test_each_state_says_what_it_waits_for() -> None:
    one = desk(agent("a"))
    one.begin(0.0)
    assert one.standing("a", 0.0).waiting_for == "readiness: no answer yet"
    one.handle(Launched("a", 1, 0.1, 100, 5))
    one.handle(Probed("a", 1, 0.2, ready=False, reason="refused"))
    assert one.standing("a", 0.2).waiting_for == "readiness: refused"
    assert one.standing("a", 0.2).launched == Launched("a", 1, 0.1, 100, 5)
    one.handle(Asked("a", "stop", "op-1", 0.3))
    assert one.standing("a", 0.3).waiting_for == "its end"
    one.handle(Exited("a", 1, 0.4, 0))
    assert one.standing("a", 0.4).waiting_for == ""


def test_a_shutdown_stops_in_reverse_and_finishes_once() -> None:
    one = desk(agent("a"), agent("b", "a"), agent("c", after=("b",)), agent("w", "o/x"), agent("p"))
    one.begin(0.0)
    come_up(one, "a", 0.1)
    come_up(one, "b", 0.2)
    come_up(one, "c", 0.3)
    one.handle(Exited("p", 1, 0.5, 1))
    found = one.handle(ShutdownAsked(1.0))
    assert [i for i in found if isinstance(i, Terminate)] == [Terminate("c", 1)]
    assert Changed("w", "starting", "stopped") in found
    assert Changed("p", "starting", "stopped") in found
    assert one.handle(Tick(6.0)) == [Kill("c", 1)]
    assert one.handle(Exited("c", 1, 6.1, -9)) == [
        Changed("c", "draining", "stopped"),
        Terminate("b", 1),
        Changed("b", "ready", "draining"),
    ]
    assert one.handle(Exited("a", 1, 6.2, 1)) == [Changed("a", "ready", "stopped")]
    assert one.handle(Exited("b", 1, 6.3, 0)) == [Changed("b", "draining", "stopped"), Finished()]
    assert one.handle(Tick(99.0)) == []
    with pytest.raises(Unavailable, match="supervisor is stopping"):
        one.handle(Asked("a", "start", "op-1", 99.0))
    assert OperationEnded("op-2", "a", succeeded=True) in one.handle(Asked("a", "stop", "op-2", 99.0))


def test_an_operation_ends_when_its_process_is_where_it_was_wanted() -> None:
    one = desk(agent("a"))
    one.begin(0.0)
    come_up(one, "a", 0.1)
    assert one.handle(Asked("a", "start", "op-1", 1.0)) == [OperationEnded("op-1", "a", succeeded=True)]
    assert one.handle(Asked("a", "restart", "op-2", 1.0)) == [Terminate("a", 1), Changed("a", "ready", "draining")]
    assert one.handle(Exited("a", 1, 1.1, 0)) == [Launch("a", 2), Changed("a", "draining", "starting")]
    assert come_up(one, "a", 1.2, life=2) == [
        Changed("a", "starting", "ready"),
        OperationEnded("op-2", "a", succeeded=True),
    ]
    one.handle(Asked("a", "stop", "op-3", 2.0))
    found = one.handle(Asked("a", "start", "op-4", 2.1))
    assert found == [OperationEnded("op-3", "a", succeeded=False, reason="overtaken by start")]
    one.handle(Asked("a", "stop", "op-5", 2.2))
    assert OperationEnded("op-5", "a", succeeded=True) in one.handle(Exited("a", 2, 2.3, 0))


def test_an_operation_fails_with_its_process_or_with_time() -> None:
    one = desk(agent("a", attempts=0), agent("b", "a"))
    one.begin(0.0)
    one.handle(Asked("a", "start", "op-1", 0.0))
    found = one.handle(Exited("a", 1, 0.5, 3))
    reason = "crash-looping: exit 3; ended 1 times within 60 s"
    assert OperationEnded("op-1", "a", succeeded=False, reason=reason) in found
    one.handle(Asked("b", "restart", "op-2", 1.0))
    assert one.next_at() == 16.0 + PATIENCE_S
    assert one.handle(Tick(16.0 + PATIENCE_S)) == [
        OperationEnded("op-2", "b", succeeded=False, reason="not done in time: a (crash-looping)")
    ]


def test_an_adopted_process_is_not_launched_again() -> None:
    one = desk(agent("a"), agent("b", "a"))
    assert one.handle(Adopted(Launched("a", 1, 0.0, 100, 5))) == [Probe("a", 1), Changed("a", "stopped", "starting")]
    assert Launch("a", 1) not in one.begin(0.1)
    assert one.standing("b", 0.1).waiting_for == "a (starting)"


def test_an_event_of_an_earlier_life_is_ignored_and_an_unknown_name_refused() -> None:
    one = desk(agent("a"))
    one.begin(0.0)
    one.handle(Exited("a", 1, 0.1, 1))
    one.handle(Tick(1.1))
    assert one.handle(Exited("a", 1, 1.2, 1)) == []
    assert one.standing("a", 1.2).life == 2
    with pytest.raises(NotFound, match="no process 'z'"):
        one.handle(Asked("z", "start", "op-1", 1.0))


class World:
    """Performs instructions as an operating system with moods would, and checks each against what may never happen."""

    def __init__(self, agents: list[Agent], seed: int, pace_s: float = 1.0) -> None:
        self.rng = random.Random(seed)
        self.now, self.pace_s = 0.0, pace_s
        self.agents = {agent.name: agent for agent in agents}
        self.desk = desk(*agents)
        self.running: dict[str, int] = {}
        self.dying: set[str] = set()
        self.probing: set[str] = set()
        self.open_operations: set[str] = set()
        self.finished = False

    def states(self) -> dict[str, State]:
        return {name: process.state for name, process in self.desk._processes.items()}

    def feed(self, event: Event) -> None:
        before = self.states()
        self.take(self.desk.handle(event), before)

    def take(self, instructions: list[Instruction], before: dict[str, State]) -> None:
        for instruction in instructions:
            match instruction:
                case Launch(name, life):
                    assert name not in self.running, "two lives at once"
                    assert not self.finished
                    if before[name] not in (State.PAUSED, State.DRAINING, State.KILLING):
                        needs = self.agents[name].depends_on
                        assert all(self.desk.standing(need, self.now).phase == "ready" for need in needs)
                    self.running[name] = life
                    self.probing.discard(name)
                case Probe(name, life):
                    assert self.running[name] == life
                    self.probing.add(name)
                case Terminate(name, life) | Kill(name, life):
                    assert self.running[name] == life
                    if isinstance(instruction, Kill) or self.rng.random() < 0.7:
                        self.dying.add(name)
                case OperationEnded(operation_id=operation_id):
                    self.open_operations.remove(operation_id)
                case Finished():
                    assert not self.running, "an orphan"
                    self.finished = True
                case Changed(was=was, now=now):
                    assert was != now

    def step(self, mood: float) -> None:
        """Something happens: an end, a launch told, a probe answered, time."""
        self.now += self.rng.random() * self.pace_s
        name = self.rng.choice(list(self.agents))
        life = self.running.get(name)
        if life is not None and (name in self.dying or self.rng.random() < mood):
            del self.running[name]
            self.dying.discard(name)
            self.probing.discard(name)
            self.feed(Exited(name, life, self.now, self.rng.choice([0, 1, -9])))
        elif life is not None and self.desk.standing(name, self.now).launched is None:
            self.feed(Launched(name, life, self.now, 100, 5))
        elif life is not None and name in self.probing:
            self.probing.discard(name)
            self.feed(Probed(name, life, self.now, ready=self.rng.random() > mood))
        self.feed(Tick(self.now))

    def idle(self) -> None:
        due = self.desk.next_at()
        if due is not None:
            self.now = max(self.now, due)


NAMES = "abcde"


@st.composite
def fabrics(draw: st.DrawFn) -> list[Agent]:
    """Up to five processes, each depending on and following some of those before it, in any order of the file."""
    agents = []
    for index, name in enumerate(NAMES[: draw(st.integers(1, 5))]):
        before = st.sets(st.sampled_from(NAMES[:index])) if index else st.just(set())
        depends_on, after = draw(before), draw(before)
        agents.append(agent(name, *depends_on, after=tuple(after), attempts=draw(st.integers(0, 3))))
    return list(draw(st.permutations(agents)))


ACTIONS = st.lists(st.sampled_from(["start", "stop", "restart", "step", "step", "step", "idle"]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(fabrics(), ACTIONS, st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.5]))
def test_whatever_happens_gates_hold_operations_end_and_nothing_is_orphaned(
    agents: list[Agent], actions: list[str], seed: int, mood: float
) -> None:
    world = World(agents, seed)
    world.take(world.desk.begin(0.0), world.states() | dict.fromkeys(world.agents, State.STOPPED))
    for number, action in enumerate(actions):
        if action == "step":
            world.step(mood)
        elif action == "idle":
            world.idle()
        else:
            world.open_operations.add(f"op-{number}")
            name = world.rng.choice(list(world.agents))
            world.feed(Asked(name, action, f"op-{number}", world.now))  # type: ignore[arg-type]
    for _ in range(3_000):
        if not world.open_operations:
            break
        world.idle()
        world.step(mood)
    assert not world.open_operations
    world.feed(ShutdownAsked(world.now))
    for _ in range(3_000):
        if world.finished:
            break
        world.idle()
        world.step(mood)
    assert world.finished
    assert {standing.phase for standing in world.desk.standings(world.now)} <= {"stopped", "crash-looping"}


@settings(max_examples=50, deadline=None)
@given(fabrics(), st.integers(0, 2**32))
def test_where_nothing_fails_everything_becomes_ready(agents: list[Agent], seed: int) -> None:
    world = World(agents, seed, pace_s=0.01)
    world.take(world.desk.begin(0.0), dict.fromkeys(world.agents, State.STOPPED))
    for _ in range(2_000):
        if FirstStart().verdict(world.desk.standings(world.now), world.now) == "ready":
            break
        world.step(0.0)
    assert {standing.phase for standing in world.desk.standings(world.now)} == {"ready"}
