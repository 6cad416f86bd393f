"""The fabric on one page: what was heard of hosts, services and agents put together, and what of it is a problem.

Answers in, one document out; it asks nobody and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from common.api import core_orchestrator, error_bus, gpus, leases, links, supervisor
from common.api import tasks as tasks_api
from common.api.basic import Health, Stats
from common.errors import TandemError

Facts = Mapping[str, Mapping[str, core_orchestrator.Field]]
"""The twin's parts; empty where CoreOrchestrator gave none."""


class HostSeen(msgspec.Struct, kw_only=True):
    """A host: reachable, or why not and how long ago CoreOrchestrator last heard of it (None: not known)."""

    host: str
    reachable: bool
    reason: str = ""
    heard_s: float | None = None
    vitals: supervisor.Vitals | None = None


class ServiceSeen(msgspec.Struct, kw_only=True):
    """A service and its health; `status` is `unreachable` where it gave none."""

    service: str
    host: str
    address: str
    status: str
    ready: bool
    uptime_s: float = 0.0
    reasons: list[str] = []


class AgentSeen(msgspec.Struct, kw_only=True):
    """An agent: its process as its supervisor has it, its liveness as the registry has it; empty where either has none."""

    agent_name: str
    host: str
    phase: str = ""
    liveness: str = ""
    reason: str = ""
    restarts: int = 0
    capabilities: list[str] = []


class Requests(msgspec.Struct, kw_only=True):
    """The requests under way at CoreOrchestrator."""

    queued: int = 0
    running: int = 0


class Tasks(msgspec.Struct, kw_only=True):
    """ResourceManager's durable tasks: those that wait or run, and those given up that nobody replayed."""

    queued: int = 0
    running: int = 0
    dead: int = 0


class Errors(msgspec.Struct, kw_only=True):
    """ErrorBus's groups by state; the resolved ones are nobody's worry."""

    new: int = 0
    ongoing: int = 0
    regressed: int = 0


class LinkSeen(msgspec.Struct, kw_only=True):
    """The link to a peer on another machine, as `host` sees it; `round_trip_ms` None where it was not measured."""

    host: str
    peer: str
    joined: bool
    up: bool
    since_s: float
    round_trip_ms: float | None = None
    why: str = ""


class LeaseCount(msgspec.Struct, kw_only=True):
    """How many leases there are, and of how many bytes."""

    count: int = 0
    bytes: int = 0


class BreakerSeen(msgspec.Struct, kw_only=True):
    """A breaker that is not closed, and whose it is."""

    service: str
    endpoint: str
    state: str
    retry_in_s: float


class Survey(msgspec.Struct, kw_only=True):
    """The fabric on one page; `ok` exactly when `problems` is empty."""

    ok: bool = True
    problems: list[str] = []
    hosts: list[HostSeen] = []
    services: list[ServiceSeen] = []
    agents: list[AgentSeen] = []
    cards: list[gpus.Card] = []
    leases: LeaseCount = msgspec.field(default_factory=LeaseCount)
    requests: Requests = msgspec.field(default_factory=Requests)
    tasks: Tasks = msgspec.field(default_factory=Tasks)
    errors: Errors = msgspec.field(default_factory=Errors)
    links: list[LinkSeen] = []
    breakers: list[BreakerSeen] = []


def host(name: str, processes: object, vitals: object, facts: Facts) -> HostSeen:
    """A host, by what its supervisor answered."""
    if isinstance(processes, TandemError):
        ages = [fact.age_s for key, fact in facts.get("hosts", {}).items() if key.partition("/")[0] == name]
        return HostSeen(host=name, reachable=False, reason=processes.message, heard_s=min(ages, default=None))
    seen = vitals if isinstance(vitals, supervisor.Vitals) else None
    return HostSeen(host=name, reachable=True, heard_s=0.0, vitals=seen)


def service(name: str, address: str, answer: Health | TandemError, host: str = "") -> ServiceSeen:
    """A service, by what it answered to ping."""
    host = host or name.partition("/")[2]
    if isinstance(answer, TandemError):
        return ServiceSeen(
            service=name, host=host, address=address, status="unreachable", ready=False, reasons=[answer.message]
        )
    return ServiceSeen(
        service=name,
        host=answer.host or host,
        address=address,
        status=answer.status,
        ready=answer.ready,
        uptime_s=answer.uptime,
        reasons=[*answer.reasons, *(f"lacks {each}" for each in answer.lacks)],
    )


def process(seen: supervisor.Process, host: str) -> ServiceSeen:
    """A service that is not asked over ZeroMQ, by what its supervisor knows of it."""
    ready = seen.phase == "ready"
    return ServiceSeen(
        service=seen.name,
        host=host,
        address=f"http://127.0.0.1:{seen.health_check_port}" if seen.probe == "http" else "",
        status="ok" if ready else "unhealthy",
        ready=ready,
        uptime_s=seen.uptime_s,
        reasons=[] if ready else list(dict.fromkeys((seen.phase, _why(seen)))),
    )


def _why(process: supervisor.Process) -> str:
    return process.waiting_for or process.last_exit or process.phase


def agents(
    processes: dict[str, supervisor.Processes | TandemError], registered: core_orchestrator.Agents | TandemError
) -> list[AgentSeen]:
    """Every agent that is configured or registered, by name."""
    seen: dict[str, AgentSeen] = {}
    for host, answer in processes.items():
        for process in answer.processes if isinstance(answer, supervisor.Processes) else ():
            if process.kind == "agent":
                reason = "" if process.phase == "ready" else _why(process)
                seen[process.name] = AgentSeen(
                    agent_name=process.name,
                    host=host,
                    phase=process.phase,
                    reason=reason,
                    restarts=process.restarts,
                    capabilities=process.capabilities,
                )
    for agent in registered.agents if isinstance(registered, core_orchestrator.Agents) else ():
        entry = seen.setdefault(
            agent.agent_name, AgentSeen(agent_name=agent.agent_name, host=agent.location or agent.host)
        )
        entry.liveness, entry.capabilities = agent.liveness, agent.capabilities
    return sorted(seen.values(), key=lambda each: each.agent_name)


def lease_count(held: dict[str, leases.Leases | TandemError]) -> LeaseCount:
    """The sum of the leases."""
    found = [lease for answer in held.values() if isinstance(answer, leases.Leases) for lease in answer.leases]
    return LeaseCount(count=len(found), bytes=sum(lease.bytes for lease in found))


def requests(facts: Facts) -> Requests:
    """The requests that the twin shows."""
    values = [fact.value for fact in facts.get("requests", {}).values() if isinstance(fact.value, dict)]
    states = [value.get("state") for value in values]
    return Requests(queued=states.count("queued"), running=states.count("running"))


def tasks(answer: tasks_api.Tasks | TandemError) -> Tasks:
    """The durable tasks, as ResourceManager counts them."""
    counts = {} if isinstance(answer, TandemError) else answer.counts
    return Tasks(**{state: counts.get(state, 0) for state in Tasks.__struct_fields__})


def errors(answers: Mapping[str, error_bus.ErrorGroups | TandemError]) -> Errors:
    """The groups of each state that worries, as ErrorBus counts them."""
    return Errors(
        **{state: answer.total for state, answer in answers.items() if isinstance(answer, error_bus.ErrorGroups)}
    )


def links_seen(answers: Mapping[str, links.Links | TandemError]) -> list[LinkSeen]:
    """The links between machines, from both ends; neighbours on one machine have none."""
    return [
        LinkSeen(
            host=host,
            peer=link.host,
            joined=link.joined,
            up=link.up,
            since_s=link.since_s,
            round_trip_ms=link.round_trip_ms,
            why=link.why,
        )
        for host, answer in answers.items()
        if isinstance(answer, links.Links)
        for link in answer.links
        if not link.neighbour
    ]


def breakers(stats: dict[str, Stats | TandemError]) -> list[BreakerSeen]:
    """The breakers that are not closed."""
    return [
        BreakerSeen(service=name, endpoint=each.endpoint, state=each.state, retry_in_s=each.retry_in_s)
        for name, answer in stats.items()
        if isinstance(answer, Stats)
        for each in answer.breakers
        if each.state != "closed"
    ]


def problems(found: Survey, cards: dict[str, gpus.Gpus | TandemError]) -> list[str]:
    """Everything that keeps the fabric from being well, a sentence each."""
    hosts = [f"host {each.host} is unreachable: {each.reason}" for each in found.hosts if not each.reachable]
    away = {f"Supervisor/{each.host}" for each in found.hosts if not each.reachable}
    services = [
        f"{each.service} is {_state(each)}: {'; '.join(each.reasons) or 'it gives no reason'}"
        for each in found.services
        if (not each.ready or each.status != "ok") and each.service not in away
    ]
    agents = [
        f"agent {each.agent_name} on {each.host} is {each.phase}: {each.reason}"
        for each in found.agents
        if each.phase not in ("", "ready")
    ]
    silent = [
        f"agent {each.agent_name} on {each.host} is {each.liveness}"
        for each in found.agents
        if each.phase in ("", "ready") and each.liveness in ("suspect", "expired")
    ]
    unlit = [
        f"cards of {host}: {why}"
        for host, answer in cards.items()
        if isinstance(answer, gpus.Gpus)
        for why in answer.missing.values()
    ]
    closed = [f"card {each.host}:{each.card}: {each.reason}" for each in found.cards if not each.schedulable]
    cut = [
        f"link {each.host} to {each.peer} is down: {each.why or 'it gives no reason'}"
        for each in found.links
        if not each.up
    ]
    broken = [f"{each.service}'s breaker of {each.endpoint} is {each.state}" for each in found.breakers]
    return [*hosts, *cut, *services, *agents, *silent, *unlit, *closed, *broken]


def _state(seen: ServiceSeen) -> str:
    return seen.status if seen.ready or seen.status == "unreachable" else f"{seen.status} and not ready"
