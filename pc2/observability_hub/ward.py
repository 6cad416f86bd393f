"""The ward: every host and process that is watched, what stands about it, and what follows from each thing seen or told.

Events in, instructions out: `Changed` is to be recorded and published, `Look` asks for a probe now. It keeps no time, sends
nothing and reads nothing; `now` is monotonic seconds, `wall` seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from common.api.core_orchestrator import Agent
from common.api.observability_hub import HealthChanged, Verdict, What
from common.api.supervisor import Process, Vitals
from pc2.observability_hub.doubt import Doubt
from pc2.observability_hub.evidence import Evidence, Outcome, Weight
from pc2.observability_hub.opinions import UNASKED, must_wait, of_host, of_process
from pc2.observability_hub.steady import Opinion, Steady
from pc2.observability_hub.subjects import SUPERVISOR, Subject, Way

RETURN_S: Final = 600.0
"""How long what an earlier life thought of a process is kept for it to be told of again."""
_ASKED: Final = ("draining", "stopped")
"""A process that stops out of these phases was asked to."""


class Stood(msgspec.Struct, frozen=True):
    """What stood about a host or process, as it outlives the hub."""

    verdict: Verdict
    reason: str
    because: str
    since_wall: float


@dataclass(frozen=True, slots=True)
class Changed:
    """A verdict changed: `key` has `stood` from now on."""

    key: str
    event: HealthChanged
    stood: Stood


@dataclass(frozen=True, slots=True)
class Look:
    """Probe this one now."""

    key: str


Instruction = Changed | Look


@dataclass(slots=True)
class Host:
    """One host: its supervisor, its other processes, its vitals as last told."""

    name: str
    near: bool
    supervisor: Subject
    steady: Steady
    processes: dict[str, Subject] = field(default_factory=dict)
    vitals: Vitals | None = None
    vitals_at: float = 0.0


class Ward:
    """All hosts; `near` are those on this machine. `stood` is what an earlier life left, by key."""

    def __init__(
        self, hosts: Iterable[str], near: frozenset[str], stood: Mapping[str, Stood], now: float, wall: float
    ) -> None:
        self._stood = dict(stood)
        self._now, self._wall = now, wall
        self._near = near
        self.doubt = Doubt()
        self.hosts: dict[str, Host] = {}
        self._subjects: dict[str, Subject] = {}
        self._unsettled: set[str] = set()
        self._unsettled_hosts: set[str] = set()
        self._gone: set[str] = set()
        self._began = now
        for name in hosts:
            self._host(name)

    # reading

    def __iter__(self) -> Iterator[Subject]:
        return iter(self._subjects.values())

    def __len__(self) -> int:
        return len(self._subjects)

    def find(self, key: str) -> Subject | None:
        """The subject of that key."""
        return self._subjects.get(key)

    # told

    def listed(self, host: str, processes: Iterable[Process], now: float, wall: float) -> list[Instruction]:
        """A supervisor told all its processes; those it no longer has are gone."""
        told = {process.name: process for process in processes}
        for subject in list(self._host(host).processes.values()):
            if subject.told is not None and subject.name not in told:
                subject.told = None
                if subject.agent is None:
                    self._drop(subject)
        found: list[Instruction] = []
        for process in told.values():
            found += self.told(host, process, "", now, wall)
        return found

    def told(self, host: str, process: Process, was: str, now: float, wall: float) -> list[Instruction]:
        """A supervisor told of one process; `was` its phase before, empty where not known."""
        subject = self._process(host, process.name, process.kind)
        before = subject.told
        subject.told, subject.what = process, process.kind
        if process.phase != "stopped" or was in _ASKED:
            subject.ended_unasked = False
        elif was:
            subject.ended_unasked = True
        if before is None or (before.pid, before.phase) != (process.pid, process.phase):
            self._begin_anew(subject, keep=before is None)
        return [*self._judge(subject, now, wall), *self._look(subject)]

    def registered(self, agents: Iterable[Agent], home: str, now: float, wall: float) -> list[Instruction]:
        """The registry told all its agents; one that names no location is on `home`."""
        known = {f"{agent.location or home}/{agent.agent_name}": agent for agent in agents}
        for subject in list(self):
            if subject.agent is not None and subject.key not in known:
                self.deregistered(subject.key)
        found: list[Instruction] = []
        for agent in known.values():
            found += self.agent(agent, home, now, wall)
        return found

    def agent(self, agent: Agent, home: str, now: float, wall: float) -> list[Instruction]:
        """The registry told of one agent."""
        if agent.agent_name == SUPERVISOR:
            return []
        subject = self._process(agent.location or home, agent.agent_name, "agent")
        before = subject.agent
        subject.agent = agent
        if before is None or (before.boot, before.port, before.host) != (agent.boot, agent.port, agent.host):
            subject.relayed = None
            if subject.told is None:
                self._begin_anew(subject, keep=before is None)
        return [*self._judge(subject, now, wall), *self._look(subject)]

    def deregistered(self, key: str) -> None:
        """The registry has it no more; with no supervisor of its own it is not watched any longer."""
        subject = self._subjects.get(key)
        if subject is not None:
            subject.agent, subject.relayed = None, None
            if subject.told is None:
                self._drop(subject)

    def relayed(self, key: str, way: Way | None) -> None:
        """By which way an agent of another host is reached."""
        subject = self._subjects.get(key)
        if subject is not None:
            subject.relayed = way

    def vitals(self, vitals: Vitals, now: float, wall: float) -> list[Instruction]:
        """A host told its vitals."""
        host = self._host(vitals.host)
        host.vitals, host.vitals_at = vitals, now
        return self._judge_host(host, now, wall)

    def worked(self, key: str, reason: str, now: float, wall: float) -> list[Instruction]:
        """What its figures say about its work; empty: nothing is wrong with it."""
        subject = self._subjects.get(key)
        if subject is None:
            return []
        subject.work = reason
        return self._judge(subject, now, wall)

    # seen

    def probed(self, key: str, life: int, outcome: Outcome, at: float, now: float, wall: float) -> list[Instruction]:
        """A probe begun at `at` ended; one of a process that is not there any more says nothing."""
        subject = self._subjects.get(key)
        if subject is None or subject.life != life:
            return []
        if outcome.silent and self._doubtful(subject, now):
            return []
        if subject.near and not (outcome.silent or outcome.own):
            self.doubt.heard()
        subject.evidence.take(outcome, at)
        if outcome.weight is Weight.MISS:
            subject.pace.missed()
        else:
            subject.pace.answered(outcome.latency_s)
        host = self.hosts[subject.host]
        if subject.what == SUPERVISOR:
            return self._judge_host(host, now, wall)
        found = self._judge(subject, now, wall)
        if outcome.weight is Weight.MISS and must_wait(subject, host.supervisor.evidence, now):
            found.append(Look(host.supervisor.key))
        return found

    def _doubtful(self, subject: Subject, now: float) -> bool:
        """A silence that says nothing, because the hub doubts itself; the ones that led to the doubt are taken back."""
        before = self.doubt.now(now)
        if subject.near:
            self.doubt.silence(subject.key, now)
        self._doubted(before, now)
        return bool(self.doubt.now(now))

    def late(self, by_s: float, now: float) -> None:
        """Something that was due here happened `by_s` late."""
        before = self.doubt.now(now)
        self.doubt.late(by_s, now)
        self._doubted(before, now)

    def _doubted(self, before: str, now: float) -> None:
        if self.doubt.now(now) and not before:
            for one in self:
                one.evidence.drop_silence()

    def tick(self, now: float, wall: float) -> list[Instruction]:
        """Time passed: what waited for it is judged again; called a few times a second."""
        found: list[Instruction] = []
        for name in list(self._unsettled_hosts):
            found += self._judge_host(self.hosts[name], now, wall)
        for key in list(self._unsettled):
            found += self._judge(self._subjects[key], now, wall)
        return found

    def gone(self, now: float) -> list[str]:
        """Whoever went since this was asked last, and after RETURN_S those of an earlier life that nobody told of again."""
        found, self._gone = self._gone - self._subjects.keys(), set()
        if now - self._began >= RETURN_S:
            unclaimed = {key for key in self._stood if "/" in key}
            self._stood.clear()
            found |= unclaimed
        return sorted(found)

    # judging

    def _judge_host(self, host: Host, now: float, wall: float) -> list[Instruction]:
        processes = [subject.evidence for subject in host.processes.values()]
        opinion = of_host(host.supervisor.evidence, processes, host.vitals)
        was = None if opinion is UNASKED else host.steady.consider(opinion, now, wall)
        self._settle_host(host, opinion)
        found = self._judge(host.supervisor, now, wall)
        if was is None:
            return found
        found.insert(0, changed(host.name, "host", host.name, host.name, was, host.steady))
        if "unreachable" not in (was, host.steady.opinion.verdict):
            return found
        for subject in host.processes.values():
            if was == "unreachable" and subject.evidence.missed_since is not None:  # behind nothing now: seen anew
                self._begin_anew(subject, keep=False)
                found += self._look(subject)
            found += self._judge(subject, now, wall)
        return found

    def _settle_host(self, host: Host, opinion: Opinion) -> None:
        """It is judged again as time passes where another opinion has to wait, or its processes speak for it."""
        waits = opinion is not UNASKED and host.steady.opinion.verdict != opinion.verdict
        if waits or host.supervisor.evidence.believed == "unreachable":
            self._unsettled_hosts.add(host.name)
        else:
            self._unsettled_hosts.discard(host.name)

    def _judge(self, subject: Subject, now: float, wall: float) -> list[Instruction]:
        host = self.hosts[subject.host]
        self._unsettled.discard(subject.key)
        if must_wait(subject, host.supervisor.evidence, now):
            self._unsettled.add(subject.key)
            return []
        opinion = of_process(subject, host.steady.opinion)
        if opinion is UNASKED:
            return []
        was = subject.steady.consider(opinion, now, wall)
        if subject.steady.opinion.verdict != opinion.verdict:
            self._unsettled.add(subject.key)
        if was is None:
            return []
        return [changed(subject.key, subject.what, subject.host, subject.name, was, subject.steady)]

    # who there is

    def _host(self, name: str) -> Host:
        host = self.hosts.get(name)
        if host is None:
            near = name in self._near
            supervisor = Subject(name, SUPERVISOR, SUPERVISOR, near, steady=self._restored(f"{name}/{SUPERVISOR}"))
            host = self.hosts[name] = Host(name, near, supervisor, self._restored(name))
            self._subjects[supervisor.key] = supervisor
        return host

    def _process(self, host_name: str, name: str, what: What) -> Subject:
        host = self._host(host_name)
        subject = host.processes.get(name)
        if subject is None:
            subject = Subject(host_name, name, what, host.near, steady=self._restored(f"{host_name}/{name}"))
            host.processes[name] = self._subjects[subject.key] = subject
        return subject

    def _restored(self, key: str) -> Steady:
        return restored(self._stood.pop(key, None), self._now, self._wall)

    def _drop(self, subject: Subject) -> None:
        del self._subjects[subject.key], self.hosts[subject.host].processes[subject.name]
        self._unsettled.discard(subject.key)
        self._gone.add(subject.key)

    def _begin_anew(self, subject: Subject, *, keep: bool) -> None:
        subject.life += 1
        subject.work = ""
        subject.pace.hurry()
        if not keep:
            subject.evidence = Evidence()

    def _look(self, subject: Subject) -> list[Instruction]:
        return [Look(subject.key)] if subject.way is not None and not subject.evidence.latency_s else []


def changed(key: str, what: What, host: str, name: str, was: Verdict, steady: Steady) -> Changed:
    """The news that a verdict changed, and what stands from now on."""
    now = steady.opinion
    event = HealthChanged(
        what=what, host=host, name=name, was=was, verdict=now.verdict, reason=now.reason, because=now.because
    )
    return Changed(key, event, Stood(now.verdict, now.reason, now.because, steady.since_wall))


def restored(stood: Stood | None, now: float, wall: float) -> Steady:
    """What an earlier life thought, if it did, to begin with."""
    if stood is None:
        return Steady(since=now, since_wall=wall)
    return Steady(Opinion(stood.verdict, stood.reason, stood.because), now, stood.since_wall)
