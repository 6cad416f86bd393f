from __future__ import annotations

import random

import pytest

from common.config.schema import Agent, HealthProbe, Restart, Stop
from common.config.units import Duration
from common.errors import Internal
from common.supervisor.instructions import Exited, Kill, Launch, Launched, Probe, Probed, Terminate
from common.supervisor.lifecycle import NEXT, PHASE, Lifecycle, Move, State, spell_code

RNG = random.Random(1)


def lifecycle(how: str = "zmq", **restart: object) -> Lifecycle:
    entry = Agent(
        name="a",
        command=["x"],
        health=HealthProbe(how=how, ready_within_s=Duration(10)),  # type: ignore[arg-type]
        stop=Stop(term_s=Duration(5)),
        restart=Restart(jitter=0, delay_s=Duration(1), attempts=1, **restart),  # type: ignore[arg-type]
    )
    return Lifecycle(entry, 0.0)


def started(how: str = "zmq", **restart: object) -> Lifecycle:
    process = lifecycle(how, **restart)
    assert process.start(0.0) == []
    assert process.open(1.0) == [Launch("a", 1)]
    process.on_launched(Launched("a", 1, 1.0, 77, 7))
    return process


def ready(**restart: object) -> Lifecycle:
    process = started(**restart)
    process.on_probed(Probed("a", 1, 2.0, ready=True))
    assert process.state is State.READY
    return process


def test_a_start_goes_through_waiting_launch_and_probes_to_ready() -> None:
    process = lifecycle()
    process.start(0.0)
    assert (process.state, process.phase) == (State.WAITING, "starting")
    assert process.open(1.0) == [Launch("a", 1)]
    assert process.on_launched(Launched("a", 1, 1.0, 77, 7)) == [Probe("a", 1)]
    assert process.on_probed(Probed("a", 1, 1.1, ready=False, reason="refused")) == []
    assert process.next_at == pytest.approx(1.15)
    assert process.tick(1.12) == []
    assert process.tick(1.16) == [Probe("a", 1)]
    process.on_probed(Probed("a", 1, 9.0, ready=False))
    assert process.next_at == pytest.approx(9.5)
    process.on_probed(Probed("a", 1, 10.8, ready=False))
    assert process.next_at == pytest.approx(11.0)
    process.on_probed(Probed("a", 1, 10.9, ready=True))
    assert (process.phase, process.next_at, process.restarts) == ("ready", None, 0)


def test_without_a_probe_a_launched_process_is_a_ready_one() -> None:
    assert started("none").state is State.READY


def test_one_that_is_not_ready_in_time_is_ended_and_counts_as_failed() -> None:
    process = started()
    process.on_probed(Probed("a", 1, 2.0, ready=False, reason="refused"))
    assert process.tick(11.0) == [Terminate("a", 1)]
    assert process.phase == "draining"
    process.on_exited(Exited("a", 1, 12.0, 0), RNG)
    assert process.state is State.PAUSED
    assert process.last_exit == "not ready within 10 s: refused"
    assert process.tick(13.0) == [Launch("a", 2)]
    assert process.tick(23.0) == [Terminate("a", 2)]
    process.on_exited(Exited("a", 2, 24.0, 0), RNG)
    assert process.state is State.CRASH_LOOPING
    assert process.last_exit == "not ready within 10 s: no answer; ended 2 times within 60 s"


def test_a_stop_drains_and_then_kills() -> None:
    process = ready()
    assert process.stop(3.0) == [Terminate("a", 1)]
    assert process.stop(4.0) == []
    assert process.next_at == 8.0
    assert process.tick(8.0) == [Kill("a", 1)]
    assert process.next_at is None
    assert process.stop(9.0) == []
    process.on_exited(Exited("a", 1, 9.0, -9, stderr_tail=("bye",)), RNG)
    assert (process.phase, process.last_exit, process.stderr_tail) == ("stopped", "killed by signal 9", ("bye",))
    assert process.stop(10.0) == []


def test_a_process_that_waits_or_pauses_is_stopped_at_once() -> None:
    process = lifecycle()
    process.start(0.0)
    process.stop(1.0)
    assert process.phase == "stopped"
    process = ready()
    process.on_exited(Exited("a", 1, 3.0, 1), RNG)
    assert process.state is State.PAUSED
    process.stop(3.5)
    assert (process.phase, process.next_at) == ("stopped", None)


def test_a_restart_drains_and_launches_without_waiting_again() -> None:
    process = ready()
    assert process.restart(3.0) == [Terminate("a", 1)]
    assert process.restart(3.5) == []
    assert process.on_exited(Exited("a", 1, 4.0, 0), RNG) == [Launch("a", 2)]
    assert (process.state, process.restarts) == (State.STARTING, 1)
    stopped = lifecycle()
    stopped.restart(0.0)
    assert stopped.state is State.WAITING


def test_a_start_during_a_drain_brings_it_back() -> None:
    process = ready()
    process.stop(3.0)
    process.start(3.5)
    assert process.on_exited(Exited("a", 1, 4.0, 0), RNG) == [Launch("a", 2)]


def test_a_stop_during_a_restart_wins() -> None:
    process = ready()
    process.restart(3.0)
    process.stop(3.5)
    assert process.on_exited(Exited("a", 1, 4.0, 0), RNG) == []
    assert process.phase == "stopped"


def test_a_start_of_what_runs_changes_nothing_and_of_what_pauses_goes_at_once() -> None:
    process = ready()
    assert process.start(3.0) == []
    assert process.state is State.READY
    process.on_exited(Exited("a", 1, 4.0, 1), RNG)
    assert process.start(4.1) == [Launch("a", 2)]


def test_a_crash_loop_ends_by_an_operator_alone_and_counts_anew() -> None:
    process = ready(stable_s=Duration(100))
    process.on_exited(Exited("a", 1, 3.0, 1), RNG)
    process.tick(4.0)
    process.on_exited(Exited("a", 2, 5.0, None, "no such program"), RNG)
    assert process.phase == "crash-looping"
    assert process.last_exit == "no such program; ended 2 times within 60 s"
    assert process.tick(1e9) == []
    process.start(6.0)
    process.open(6.0)
    process.on_exited(Exited("a", 3, 7.0, 1), RNG)
    assert process.state is State.PAUSED
    process.tick(8.0)
    process.on_exited(Exited("a", 4, 8.5, 1), RNG)
    process.stop(9.0)
    assert process.phase == "stopped"


def test_an_end_that_the_policy_leaves_is_stopped() -> None:
    process = ready()
    process.on_exited(Exited("a", 1, 3.0, 0), RNG)
    assert (process.phase, process.last_exit) == ("stopped", "exit 0")


def test_what_comes_late_changes_nothing() -> None:
    process = ready()
    process.stop(3.0)
    assert process.on_launched(Launched("a", 1, 3.0, 77, 7)) == []
    assert process.on_probed(Probed("a", 1, 3.0, ready=True)) == []
    assert process.phase == "draining"


def test_an_adopted_process_is_probed_and_not_launched() -> None:
    process = lifecycle()
    assert process.adopt(Launched("a", 1, 1.0, 77, 7)) == [Probe("a", 1)]
    assert (process.state, process.life, process.restarts) == (State.STARTING, 1, 0)


def test_an_illegal_move_raises_with_the_story() -> None:
    process = ready()
    with pytest.raises(Internal, match=r"a is ready, which knows no open; before: .*waiting --open--> starting"):
        process.open(3.0)
    with pytest.raises(Internal, match="before: nothing"):
        lifecycle().open(0.0)


def test_every_state_has_a_phase_and_can_be_left_and_reached() -> None:
    assert set(PHASE) == set(State)
    assert {state for state, _ in NEXT} == set(State)
    assert set(NEXT.values()) == set(State)
    assert {move for _, move in NEXT} == set(Move)


def test_an_exit_code_is_spelt() -> None:
    assert [spell_code(code) for code in (0, 3, -15, None)] == [
        "exit 0",
        "exit 3",
        "killed by signal 15",
        "ended, code unknown",
    ]
