from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from common.api.observability_hub import HealthChanged
from pc2.observability_hub.evidence import Outcome, Weight
from pc2.observability_hub.steady import HOLD_S, SEVERITY
from pc2.observability_hub.ward import RETURN_S, Changed, Instruction, Look, Stood, Ward
from tests.pc2.observability_hub.saying import agent, process, vitals

WELL = Outcome(Weight.WELL, latency_s=0.001)
SILENT = Outcome(Weight.MISS, "no answer", silent=True)
REFUSED = Outcome(Weight.MISS, "nobody listens")
WALL = 1_000_000.0


class Bench:
    """A ward with a clock, and every event that it told."""

    def __init__(self, near: frozenset[str] = frozenset({"pc2", "mainpc"}), **stood: Stood) -> None:
        self.now = 0.0
        self.told: list[HealthChanged] = []
        self.looks: list[str] = []
        self.ward = Ward(
            ["mainpc", "pc2"], near, {key.replace("__", "/"): one for key, one in stood.items()}, 0.0, WALL
        )

    def take(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Look):
                self.looks.append(instruction.key)
            else:
                assert isinstance(instruction, Changed)
                assert instruction.stood.verdict == instruction.event.verdict
                self.told.append(instruction.event)

    def processes(self, host: str, *processes: Any) -> None:
        self.take(self.ward.listed(host, processes, self.now, WALL + self.now))

    def changed(self, host: str, told: Any, was: str) -> None:
        self.take(self.ward.told(host, told, was, self.now, WALL + self.now))

    def probe(self, key: str, outcome: Outcome, times: int = 1, pause_s: float = 0.1) -> None:
        for _ in range(times):
            began, self.now = self.now, self.now + pause_s
            subject = self.ward.find(key)
            assert subject is not None
            self.take(self.ward.probed(key, subject.life, outcome, began, self.now, WALL + self.now))

    def tick(self, pass_s: float = 0.0) -> None:
        self.now += pass_s
        self.take(self.ward.tick(self.now, WALL + self.now))

    def verdict(self, key: str) -> str:
        subject = self.ward.find(key)
        return self.ward.hosts[key].steady.opinion.verdict if subject is None else subject.steady.opinion.verdict

    def because(self, key: str) -> str:
        subject = self.ward.find(key)
        assert subject is not None
        return subject.steady.opinion.because


def all_well(*names: str, **options: Any) -> Bench:
    """Both supervisors and these agents of pc2 are healthy."""
    bench = Bench(**options)
    bench.processes("pc2", *(process(name) for name in names))
    for key in ("mainpc/supervisor", "pc2/supervisor", *(f"pc2/{name}" for name in names)):
        bench.probe(key, WELL)
    bench.told.clear()
    bench.looks.clear()
    return bench


def test_whoever_is_told_of_is_looked_at_and_healthy_by_its_first_answer() -> None:
    bench = Bench()
    bench.processes("pc2", process("a"))
    assert bench.looks == ["pc2/a"]
    assert bench.verdict("pc2/a") == "unknown"
    bench.probe("pc2/a", WELL)
    assert [(e.what, e.name, e.was, e.verdict) for e in bench.told] == [("agent", "a", "unknown", "healthy")]


def test_a_death_told_by_its_supervisor_is_a_verdict_at_once() -> None:
    bench = all_well("a")
    bench.changed("pc2", process("a", "starting", last_exit="killed by signal 9"), "ready")
    assert [(e.verdict, e.reason) for e in bench.told] == [("unhealthy", "died: killed by signal 9")]
    bench.now += HOLD_S
    bench.changed("pc2", process("a", pid=8), "starting")
    assert bench.verdict("pc2/a") == "unhealthy"
    bench.probe("pc2/a", WELL)
    assert bench.verdict("pc2/a") == "healthy"


def test_an_answer_of_the_process_before_says_nothing_of_this_one() -> None:
    bench = all_well("a")
    subject = bench.ward.find("pc2/a")
    assert subject is not None
    life = subject.life
    bench.changed("pc2", process("a", "starting", last_exit="killed"), "ready")
    bench.take(bench.ward.probed("pc2/a", life, WELL, 0.0, bench.now, WALL))
    bench.take(bench.ward.probed("pc2/never", 0, WELL, 0.0, bench.now, WALL))
    assert bench.verdict("pc2/a") == "unhealthy"


def test_a_process_stopped_as_asked_raises_nothing_and_one_that_ended_by_itself_does() -> None:
    bench = all_well("a", "b")
    bench.changed("pc2", process("a", "draining"), "ready")
    bench.changed("pc2", process("a", "stopped", last_exit="exit status 0"), "draining")
    bench.changed("pc2", process("b", "stopped", last_exit="exit status 0"), "ready")
    assert (bench.verdict("pc2/a"), bench.verdict("pc2/b")) == ("unknown", "unhealthy")
    bench.now += HOLD_S
    bench.processes("pc2", process("a", "stopped"), process("b", "stopped", last_exit="exit status 0"))
    assert bench.verdict("pc2/b") == "unhealthy"
    bench.changed("pc2", process("b", "stopped", last_exit="exit status 0"), "draining")
    assert bench.verdict("pc2/b") == "unknown"


def test_a_missed_process_has_its_supervisor_looked_at_before_it_is_suspected() -> None:
    bench = all_well("a")
    bench.probe("pc2/a", SILENT, times=2)
    assert "pc2/supervisor" in bench.looks
    assert bench.verdict("pc2/a") == "healthy"
    bench.probe("pc2/supervisor", WELL)
    bench.tick()
    assert bench.verdict("pc2/a") == "degraded"
    bench.probe("pc2/a", SILENT, times=2)
    assert bench.verdict("pc2/a") == "unreachable"


def test_a_supervisor_that_is_never_looked_at_delays_a_suspicion_and_no_more() -> None:
    bench = all_well("a")
    bench.probe("pc2/a", REFUSED, times=4)
    assert bench.verdict("pc2/a") == "healthy"
    bench.tick(3.0)
    assert bench.verdict("pc2/a") == "unreachable"


def test_a_host_that_goes_is_one_piece_of_news_and_its_processes_are_behind_it() -> None:
    names = [f"a{number}" for number in range(10)]
    bench = all_well(*names)
    for _ in range(5):
        for name in names:
            bench.probe(f"pc2/{name}", REFUSED, pause_s=0.01)
        bench.probe("pc2/supervisor", REFUSED, pause_s=0.01)
    roots = [event for event in bench.told if event.verdict == "unreachable" and not event.because]
    assert [event.what for event in roots] == ["host"]
    behind = [event for event in bench.told if event.because == "pc2"]
    assert {event.name for event in behind} == {"supervisor", *names}
    assert {event.reason for event in behind} == {"unreachable because pc2 is unreachable"}
    assert not [event for event in bench.told if event.what == "agent" and event.verdict != "unreachable"]


def test_a_host_whose_supervisor_is_waited_for_longer_than_the_others_is_one_piece_of_news_too() -> None:
    bench = all_well("a", "b")
    for _ in range(4):
        for _ in range(4):
            for name in ("a", "b"):
                bench.probe(f"pc2/{name}", SILENT, pause_s=0.2)
            bench.tick()
        bench.probe("pc2/supervisor", SILENT, pause_s=0.4)
    assert {bench.because("pc2/a"), bench.because("pc2/b")} == {"pc2"}
    assert [event.what for event in bench.told if event.verdict == "unreachable" and not event.because] == ["host"]


def test_a_host_that_is_back_has_its_processes_looked_at_anew() -> None:
    bench = all_well("a")
    for _ in range(5):
        bench.probe("pc2/a", REFUSED, pause_s=0.01)
        bench.probe("pc2/supervisor", REFUSED, pause_s=0.01)
    bench.now += HOLD_S
    bench.looks.clear()
    bench.probe("pc2/supervisor", WELL, times=2)
    assert bench.verdict("pc2") == "healthy"
    assert bench.looks == ["pc2/a"]
    assert (bench.verdict("pc2/a"), bench.because("pc2/a")) == ("unreachable", "pc2")
    bench.probe("pc2/a", WELL)
    assert bench.verdict("pc2/a") == "healthy"


def test_a_host_that_is_back_has_those_judged_anew_that_nobody_asks() -> None:
    bench = all_well("a")
    gone = process("gone", "crash-looping", last_exit="exit 1")
    bench.processes("pc2", process("a"), process("mute", probe="none"), gone)
    before = {name: bench.verdict(f"pc2/{name}") for name in ("mute", "gone")}
    assert before == {"mute": "healthy", "gone": "unhealthy"}
    for _ in range(5):
        bench.probe("pc2/a", REFUSED, pause_s=0.01)
        bench.probe("pc2/supervisor", REFUSED, pause_s=0.01)
    assert (bench.verdict("pc2/mute"), bench.because("pc2/mute")) == ("unreachable", "pc2")
    bench.now += HOLD_S
    bench.probe("pc2/supervisor", WELL, times=2)
    bench.tick(HOLD_S)
    assert {name: bench.verdict(f"pc2/{name}") for name in before} == before


def test_a_supervisor_that_is_gone_alone_leaves_its_host_degraded() -> None:
    bench = all_well("a")
    for _ in range(5):
        bench.probe("pc2/supervisor", REFUSED, pause_s=0.01)
        bench.probe("pc2/a", WELL, pause_s=0.01)
    assert (bench.verdict("pc2"), bench.verdict("pc2/a")) == ("degraded", "healthy")
    assert (bench.verdict("pc2/supervisor"), bench.because("pc2/supervisor")) == ("unreachable", "")


def test_a_slow_hub_suspects_nobody_and_believes_what_it_is_told() -> None:
    bench = all_well("a", "b")
    bench.probe("pc2/a", SILENT)
    bench.ward.late(2.0, bench.now)
    for key in ("pc2/a", "pc2/b", "pc2/supervisor", "mainpc/supervisor"):
        bench.probe(key, SILENT, times=4, pause_s=0.05)
    bench.tick()
    assert bench.told == []
    bench.changed("pc2", process("b", "crash-looping", last_exit="exit 1"), "ready")
    assert bench.verdict("pc2/b") == "unhealthy"


def test_a_hub_that_hears_nobody_any_more_takes_back_what_it_suspected() -> None:
    names = ("a", "b", "c", "d")
    bench = all_well(*names)
    for _ in range(8):
        for key in (*(f"pc2/{name}" for name in names), "pc2/supervisor", "mainpc/supervisor"):
            bench.probe(key, SILENT, pause_s=0.03)
        bench.tick()
    assert bench.ward.doubt.now(bench.now)
    assert not [event for event in bench.told if SEVERITY[event.verdict] > 1]
    assert all(subject.evidence.missed_since is None for subject in bench.ward)


def test_silence_across_a_link_is_no_reason_to_doubt() -> None:
    bench = all_well("a", near=frozenset({"pc2"}))
    bench.processes("mainpc", *(process(f"m{number}") for number in range(6)))
    for _ in range(6):
        for number in range(6):
            bench.probe(f"mainpc/m{number}", SILENT, pause_s=0.03)
        bench.probe("mainpc/supervisor", SILENT, pause_s=0.03)
    assert bench.ward.doubt.now(bench.now) == ""
    assert bench.verdict("mainpc") == "unreachable"


def test_the_registry_and_a_supervisor_speak_of_one_agent() -> None:
    bench = all_well("a")
    bench.take(bench.ward.registered([agent("a"), agent("lone", location="")], "mainpc", bench.now, WALL))
    assert {subject.key for subject in bench.ward if subject.what == "agent"} == {"pc2/a", "mainpc/lone"}
    assert "mainpc/lone" in bench.looks
    bench.take(bench.ward.registered([], "mainpc", bench.now, WALL))
    assert bench.ward.find("mainpc/lone") is None
    assert bench.ward.find("pc2/a") is not None
    bench.ward.deregistered("pc2/nobody")


def test_a_process_that_no_list_has_any_more_is_watched_no_more() -> None:
    bench = all_well("a", "b")
    bench.take(bench.ward.agent(agent("b"), "mainpc", bench.now, WALL))
    bench.processes("pc2")
    assert bench.ward.find("pc2/a") is None
    assert bench.ward.find("pc2/b") is not None
    bench.ward.deregistered("pc2/b")
    assert len(bench.ward) == 2


def test_an_agent_that_moved_begins_anew_and_one_called_supervisor_is_not_taken_for_one() -> None:
    bench = Bench()
    take = bench.ward.agent
    bench.take(take(agent("a"), "mainpc", 0.0, WALL))
    bench.probe("pc2/a", WELL)
    subject = bench.ward.find("pc2/a")
    assert subject is not None
    life = subject.life
    bench.take(take(agent("a", heard_s=1.0), "mainpc", 1.0, WALL))
    assert subject.life == life
    bench.take(take(agent("a", port=6), "mainpc", 1.0, WALL))
    assert subject.life == life + 1
    assert take(agent("supervisor"), "mainpc", 1.0, WALL) == []


def test_work_that_is_stuck_shows_and_ends() -> None:
    bench = all_well("a")
    bench.take(bench.ward.worked("pc2/a", "do is stuck", bench.now, WALL))
    bench.take(bench.ward.worked("pc2/nobody", "do is stuck", bench.now, WALL))
    assert bench.verdict("pc2/a") == "degraded"
    bench.take(bench.ward.worked("pc2/a", "", bench.now, WALL))
    assert bench.verdict("pc2/a") == "degraded"
    bench.tick(HOLD_S)
    assert bench.verdict("pc2/a") == "healthy"


def test_vitals_strain_a_host() -> None:
    bench = all_well()
    bench.take(bench.ward.vitals(vitals("pc2", disk_free_bytes=1), bench.now, WALL))
    assert bench.told[0].reason == "its disk is 99% full"
    assert bench.ward.hosts["pc2"].vitals_at == bench.now


def test_an_agent_behind_a_link_is_asked_by_the_way_that_was_found() -> None:
    from pc2.observability_hub.subjects import Way

    bench = Bench(near=frozenset({"pc2"}))
    bench.processes("mainpc", process("m"))
    subject = bench.ward.find("mainpc/m")
    assert subject is not None
    assert bench.verdict("mainpc/m") == "healthy"
    bench.ward.relayed("mainpc/m", Way("zmq", port=77))
    bench.ward.relayed("mainpc/nobody", None)
    assert subject.way == Way("zmq", port=77)


def test_whoever_went_is_told_once_and_so_is_one_of_an_earlier_life_that_never_came() -> None:
    stood = Stood(verdict="degraded", reason="slow", because="", since_wall=5.0)
    bench = Bench(pc2__never=stood, pc2=stood)
    bench.processes("pc2", process("a"), process("b"))
    bench.processes("pc2", process("a"))
    bench.processes("pc2")
    bench.processes("pc2", process("a"))
    assert bench.ward.gone(1.0) == ["pc2/b"]
    assert bench.ward.gone(2.0) == []
    assert bench.ward.gone(RETURN_S) == ["pc2/never"]
    assert bench.ward.gone(RETURN_S + 1) == []


def test_what_stood_before_stands_until_it_is_seen_anew() -> None:
    stood = Stood(verdict="degraded", reason="slow", because="", since_wall=5.0)
    bench = Bench(pc2__a=stood, pc2=Stood(verdict="healthy", reason="", because="", since_wall=6.0))
    bench.processes("pc2", process("a"))
    bench.tick()
    assert (bench.verdict("pc2/a"), bench.verdict("pc2")) == ("degraded", "healthy")
    bench.probe("pc2/a", WELL)
    assert [(event.was, event.verdict) for event in bench.told] == [("degraded", "healthy")]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]))
def test_whatever_happens_verdicts_hold_to_the_rules(seed: int, doubtful: float) -> None:
    bench, rng = Bench(), random.Random(seed)
    names = ["a", "b", "c", "d", "e"]
    bench.processes("pc2", *(process(name) for name in names))
    keys = ["pc2/supervisor", "mainpc/supervisor", *(f"pc2/{name}" for name in names)]
    fell: dict[str, list[float]] = {}
    for _ in range(150):
        seen, doubting = len(bench.told), bool(bench.ward.doubt.now(bench.now))
        step = rng.randrange(8)
        if step == 0:
            phase = rng.choice(["ready", "starting", "stopped", "crash-looping"])
            bench.changed("pc2", process(rng.choice(names), phase, last_exit="gone", pid=rng.randrange(3)), "ready")
        elif step == 1:
            bench.tick(rng.random())
        elif step == 2 and rng.random() < doubtful:
            bench.ward.late(1.0, bench.now)
        else:
            bench.probe(rng.choice(keys), rng.choice([WELL, SILENT, REFUSED]), pause_s=rng.random() / 4)
        doubting = doubting and bool(bench.ward.doubt.now(bench.now))
        for event in bench.told[seen:]:
            if SEVERITY[event.was] == 0 and SEVERITY[event.verdict] > 0:
                fell.setdefault(f"{event.what}/{event.host}/{event.name}", []).append(bench.now)
            if event.because:
                assert bench.verdict(event.because) == "unreachable"
            if doubting and step > 2 and SEVERITY[event.verdict] > SEVERITY[event.was] and not event.because:
                assert "no answer" not in event.reason, "a slow hub raised an alarm out of silence"
    for times in fell.values():
        assert all(after - before >= HOLD_S for before, after in pairwise(times))
