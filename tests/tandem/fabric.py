"""A small fabric for the command line's tests: the real shell and the catalog's verbs over tables held in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from common.api import (
    basic,
    core_orchestrator,
    decisions,
    error_bus,
    gpus,
    leases,
    links,
    resource_manager,
    security_gateway,
    supervisor,
    tasks,
)
from common.api import observability_hub as hub
from common.api.separations import LIST_SEPARATIONS, Separation, SeparationList
from common.api.words import Cursor, Empty
from common.client.directory import SERVICES_VARIABLE
from common.errors import Cancelled, NoCapacity, NotFound, StaleFence, TandemError, TooLarge, Unavailable
from common.gpu.process_identity import MACHINE, this_machine, watch_exit
from common.gpu.simulated import card_uuid, cards_folder, ensure_cards
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from tests.lab.nowhere import only

GIB = 2**30
AT = "2026-01-02T03:04:05.000Z"
AS_OF = Cursor(epoch=1, seq=1)
TOTALS = {"mainpc": 24 * GIB, "pc2": 12 * GIB}


def process(name: str, **changes: Any) -> supervisor.Process:
    """A ready agent's process."""
    plain = supervisor.Process(
        name=name,
        kind="agent",
        phase="ready",
        waiting_for="",
        pid=os.getpid(),
        start_time=1,
        restarts=0,
        uptime_s=5.0,
        rss_bytes=1,
        cpu_pct=0.0,
        port=0,
        health_check_port=0,
        capabilities=["echo"],
        last_exit="",
        stderr_tail=[],
        since=AT,
    )
    return msgspec.structs.replace(plain, **changes)


def agent(name: str, **changes: Any) -> core_orchestrator.Agent:
    """A registered agent that is alive."""
    plain = core_orchestrator.Agent(
        agent_name=name,
        host="127.0.0.1",
        port=5001,
        health_check_port=0,
        events_port=0,
        capabilities=["echo"],
        verbs={},
        idempotent=[],
        metadata={},
        liveness="alive",
        dress="plain",
        location="mainpc",
        boot="boot-1",
        pid=1,
        ttl_s=10.0,
        heard_s=3.2,
        in_flight=0,
        registered_at=AT,
    )
    return msgspec.structs.replace(plain, **changes)


@dataclass
class Fabric:
    """The tables behind the fakes, for a test to change and to look at."""

    home: str
    shells: dict[str, Shell] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    leases: dict[str, leases.Lease] = field(default_factory=dict)
    asked: list[leases.AcquireLease] = field(default_factory=list)
    planned: list[decisions.PlanLease] = field(default_factory=list)
    measured: dict[str, int] = field(default_factory=dict)
    processes: dict[str, list[supervisor.Process]] = field(default_factory=dict)
    agents: list[core_orchestrator.Agent] = field(default_factory=list)
    facts: dict[str, dict[str, core_orchestrator.Field]] = field(default_factory=dict)
    receipts: list[decisions.Receipt] = field(default_factory=list)
    breakers: list[basic.BreakerStats] = field(default_factory=list)
    log: str = ""
    operations: list[tuple[str, str, str]] = field(default_factory=list)
    withdrawn: int = 0
    renewals: int = 0
    marks: list[leases.MarkLease] = field(default_factory=list)
    refusal: TandemError | None = None
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    simulated: bool = True
    hidden: bool = False
    log_is_away: bool = False
    cards_are_away: bool = False
    tasks: dict[str, tasks.TaskStatus] = field(default_factory=dict)
    submitted: list[tasks.SubmitTask] = field(default_factory=list)
    limited: list[tasks.LimitTasks] = field(default_factory=list)
    groups: dict[str, error_bus.ErrorGroupDetail] = field(default_factory=dict)
    health: hub.FabricHealth | None = None
    links: dict[str, list[links.Link]] = field(default_factory=dict)
    separations: dict[str, list[Separation]] = field(default_factory=dict)
    copies: dict[str, list[core_orchestrator.Agent]] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        """The environment in which the command finds this fabric."""
        places = {name: shell.port for name, shell in self.shells.items()}
        text = only(*(f"{name}={port}@127.0.0.1" for name, port in places.items()))
        return {SERVICES_VARIABLE: text, "TANDEM_HOME": self.home, "TANDEM_HOST": "mainpc"}

    async def start(self, name: str) -> None:
        """Bring one service up, where it was before if it was there before."""
        host = self.places[name]
        port = self.shells[name].port if name in self.shells else 0
        shell = self.shells[name] = Shell(
            ShellSettings(service=name, host=host, port=port, metadata={MACHINE: this_machine()})
        )
        if name.startswith("Supervisor/"):
            _serve_host(shell, self, host)
            ensure_cards(cards_folder(Path(self.home), host), host, (TOTALS[host],))
        else:
            SERVE[name](shell, self)
        await shell.open()

    async def stop(self, name: str) -> None:
        """Take one service away; its place stays known."""
        port = self.shells[name].port
        await self.shells[name].close(drain_s=0)
        self.shells[name].port = port

    def free(self, host: str) -> int:
        """The bytes of the host's card that nobody leases."""
        return max(0, TOTALS[host] - sum(lease.bytes for lease in self.leases.values() if lease.host == host))

    def end(self, lease_id: str) -> None:
        """A lease is over."""
        self.leases.pop(lease_id, None)
        self.freed.set()
        self.freed = asyncio.Event()

    # the lease verbs

    async def acquire(self, asked: leases.AcquireLease, call: Call, own: str = "") -> leases.LeaseGranted:
        self.asked.append(asked)
        if self.refusal is not None:
            raise self.refusal
        hosts = [own or asked.host] if own or asked.host else list(TOTALS)
        if all(asked.bytes > TOTALS[host] for host in hosts):
            raise TooLarge(f"{asked.model} fits no card", need_bytes=asked.bytes)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            host = next((host for host in hosts if self.free(host) >= asked.bytes), "")
            if host:
                return self.grant(asked, host)
            most = max(map(self.free, hosts))
            waited = loop.time() - began
            if waited >= asked.wait_s:
                raise NoCapacity(
                    f"every card is full on {hosts[0]}:0",
                    need_bytes=asked.bytes,
                    free_bytes=most,
                    waited_s=waited,
                    position=1,
                    retry_after_ms=1000,
                )
            call.part(
                leases.LeaseProgress(
                    position=1, need_bytes=asked.bytes, free_bytes=most, waited_s=waited, reason="full on mainpc:0"
                )
            )
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.freed.wait(), asked.wait_s - waited)
            except (asyncio.CancelledError, Cancelled):
                self.withdrawn += 1
                raise

    def grant(self, asked: leases.AcquireLease, host: str) -> leases.LeaseGranted:
        number = len(self.asked)
        lease_id = f"lease-{number}"
        owner = asked.owner or leases.Owner()
        self.leases[lease_id] = leases.Lease(
            lease_id=lease_id,
            model=asked.model,
            bytes=asked.bytes,
            measured_bytes=0,
            verified=True,
            priority=asked.priority,
            host=host,
            card=0,
            card_uuid=card_uuid(host, 0),
            fencing_token=number,
            owner=owner,
            identity=f"local@{host}",
            ttl_s=asked.ttl_s,
            expires_in_s=asked.ttl_s,
            granted_at=AT,
        )
        if owner.pid:
            watch_exit(owner.pid, owner.start_time, asyncio.get_running_loop(), lambda: self.end(lease_id))
        return leases.LeaseGranted(
            lease_id=lease_id,
            host=host,
            card=0,
            card_uuid=card_uuid(host, 0),
            fencing_token=number,
            expires_in_s=asked.ttl_s,
            bytes=asked.bytes,
        )

    def held(self, lease_id: str, token: int) -> leases.Lease:
        lease = self.leases.get(lease_id)
        if lease is None:
            raise NotFound(f"no lease {lease_id}")
        if lease.fencing_token != token:
            raise StaleFence(f"{lease_id} was granted anew")
        return lease

    def renew(self, asked: leases.RenewLease, call: Call) -> leases.LeaseRenewed:
        self.renewals += 1
        return leases.LeaseRenewed(expires_in_s=self.held(asked.lease_id, asked.fencing_token).ttl_s)

    def mark(self, asked: leases.MarkLease, call: Call) -> leases.LeaseMarked:
        self.marks.append(asked)
        self.held(asked.lease_id, asked.fencing_token)
        return leases.LeaseMarked(state="held", in_use=True, loaded=False)

    def release(self, asked: leases.ReleaseLease, call: Call) -> Empty:
        self.held(asked.lease_id, asked.fencing_token)
        self.end(asked.lease_id)
        return Empty()

    def list(self, asked: leases.ListLeases, call: Call) -> leases.Leases:
        found = [
            msgspec.structs.replace(lease, measured_bytes=self.measured.get(lease.model, 0), verified=not self.hidden)
            for lease in self.leases.values()
            if asked.host in ("", lease.host)
        ]
        return leases.Leases(leases=found, as_of=AS_OF)

    def gpus(self, asked: gpus.GetGpus, own: str = "") -> gpus.Gpus:
        if self.cards_are_away:
            raise Unavailable("gone")
        hosts = [host for host in TOTALS if host in ((own,) if own else (asked.host or host,))]
        return gpus.Gpus(cards=[self.card(host) for host in hosts])

    def card(self, host: str) -> gpus.Card:
        free = self.free(host)
        strangers = [gpus.Stranger(pid=7, name="game\x1b[31m", bytes=GIB)] if host == "pc2" else []
        return gpus.Card(
            host=host,
            card=0,
            card_uuid=card_uuid(host, 0),
            name="a card",
            total_bytes=TOTALS[host],
            free_bytes=free,
            leased_bytes=TOTALS[host] - free,
            used_bytes=0,
            grantable_bytes=free,
            simulated=self.simulated,
            strangers=strangers,
        )

    def plan(self, asked: decisions.PlanLease, own: str = "") -> decisions.LeasePlan:
        self.planned += [] if own else [asked]
        asked_hosts = [own] if own else [asked.host] if asked.host else list(TOTALS)
        hosts = [host for host in asked_hosts if asked.card_uuid in ("", card_uuid(host, 0))]
        fit = [host for host in hosts if self.free(host) >= asked.bytes]
        ever = any(TOTALS[host] >= asked.bytes for host in hosts)
        return decisions.LeasePlan(
            outcome="grant" if fit else "wait" if ever else "never",
            host=fit[0] if fit else "",
            card_uuid=card_uuid(fit[0], 0) if fit else "",
            need_bytes=asked.bytes,
            free_bytes=max(map(self.free, hosts)),
            reason="it fits" if fit else "it does not fit",
            cards=[verdict(host, host in fit, self.free(host)) for host in hosts],
        )

    def explain(self, asked: decisions.Explain, call: Call) -> decisions.Explanation:
        found = [each for each in self.receipts if asked.subject in (each.lease_id, each.model)]
        return decisions.Explanation(receipts=found[: asked.limit])

    def operate(self, host: str, word: str, name: str) -> supervisor.Operation:
        self.operations.append((host, word, name))
        return supervisor.Operation(operation_id=f"op-{len(self.operations)}", phase="starting")

    def read_log(self, asked: supervisor.ReadLog, call: Call) -> supervisor.LogText:
        if self.log_is_away:
            raise Unavailable("gone")
        start = max(0, len(self.log) + asked.offset) if asked.offset < 0 else asked.offset
        rotated = start > len(self.log)
        start = 0 if rotated else start
        text = self.log[start : start + asked.limit]
        return supervisor.LogText(text=text, next_offset=start + len(text), rotated=rotated)


def verdict(host: str, fits: bool, free: int) -> decisions.CardVerdict:
    """A card's word on a request."""
    return decisions.CardVerdict(
        host=host,
        card=0,
        card_uuid=card_uuid(host, 0),
        feasible=fits,
        grantable_bytes=free,
        reason="" if fits else "too little is free",
    )


def receipt(lease_id: str, model: str, **changes: Any) -> decisions.Receipt:
    """A receipt of a grant."""
    plain = decisions.Receipt(
        at=AT,
        lease_id=lease_id,
        model=model,
        decision="granted",
        need_bytes=GIB,
        free_bytes=2 * GIB,
        host="mainpc",
        card_uuid=card_uuid("mainpc", 0),
        reason="the tightest fit",
        cards=[verdict("mainpc", True, 2 * GIB)],
    )
    return msgspec.structs.replace(plain, **changes)


def _serve_leases(shell: Shell, fabric: Fabric, own: str = "") -> None:
    async def acquire(asked: leases.AcquireLease, call: Call) -> leases.LeaseGranted:
        return await fabric.acquire(asked, call, own)

    shell.handle(leases.ACQUIRE_LEASE, acquire)
    shell.handle(leases.RENEW_LEASE, fabric.renew)
    shell.handle(leases.MARK_LEASE, fabric.mark)
    shell.handle(leases.RELEASE_LEASE, fabric.release)
    shell.handle(leases.LIST_LEASES, lambda asked, call: fabric.list(leases.ListLeases(host=own or asked.host), call))
    shell.handle(gpus.GET_GPUS, lambda asked, _call: fabric.gpus(asked, own))
    shell.handle(decisions.PLAN, lambda asked, _call: fabric.plan(asked, own))
    shell.handle(decisions.EXPLAIN, fabric.explain)


def _serve_host(shell: Shell, fabric: Fabric, host: str) -> None:
    _serve_leases(shell, fabric, host)
    shell.handle(
        supervisor.LIST_PROCESSES,
        lambda _asked, _call: supervisor.Processes(host=host, processes=fabric.processes.get(host, []), as_of=AS_OF),
    )
    shell.handle(
        LIST_SEPARATIONS,
        lambda _asked, _call: SeparationList(host=host, separations=fabric.separations.get(host, [])),
    )
    shell.handle(
        core_orchestrator.LIST_AGENTS,
        lambda _asked, _call: core_orchestrator.Agents(agents=fabric.copies.get(host, fabric.agents), as_of=AS_OF),
    )
    shell.handle(
        links.LIST_LINKS,
        lambda _asked, _call: links.Links(host=host, links=fabric.links.get(host, []), as_of=AS_OF),
    )
    shell.handle(supervisor.GET_VITALS, lambda _asked, _call: vitals(host))
    shell.handle(supervisor.READ_LOG, fabric.read_log)
    shell.handle(supervisor.START_AGENT, lambda asked, _call: fabric.operate(host, "start", asked.agent_name))
    shell.handle(supervisor.STOP_AGENT, lambda asked, _call: fabric.operate(host, "stop", asked.agent_name))
    shell.handle(supervisor.RESTART_AGENT, lambda asked, _call: fabric.operate(host, "restart", asked.agent_name))


def vitals(host: str) -> supervisor.Vitals:
    """A quiet host's vitals."""
    return supervisor.Vitals(
        host=host,
        cpu_pct=1.0,
        load_1m=0.5,
        cores=8,
        memory_total_bytes=32 * GIB,
        memory_used_bytes=8 * GIB,
        swap_used_bytes=0,
        disk_total_bytes=100 * GIB,
        disk_free_bytes=50 * GIB,
        uptime_s=100.0,
        processes=10,
    )


def _serve_core(shell: Shell, fabric: Fabric) -> None:
    shell.handle(
        core_orchestrator.LIST_AGENTS,
        lambda _asked, _call: core_orchestrator.Agents(agents=fabric.agents, as_of=AS_OF),
    )
    shell.handle(core_orchestrator.GET_TWIN, lambda _asked, _call: core_orchestrator.Twin(parts=fabric.facts))
    shell.breakers = lambda: fabric.breakers


def _serve_manager(shell: Shell, fabric: Fabric) -> None:
    _serve_leases(shell, fabric)

    def submit(asked: tasks.SubmitTask, _call: Call) -> tasks.TaskSubmitted:
        fabric.submitted.append(asked)
        return tasks.TaskSubmitted(task_id=next(iter(fabric.tasks), "task-0"))

    def found(asked: tasks.TaskId | tasks.GetTask, _call: Call) -> tasks.TaskStatus:
        if asked.task_id not in fabric.tasks:
            raise NotFound(f"no task {asked.task_id}")
        return fabric.tasks[asked.task_id]

    def cancel(asked: tasks.TaskId, call: Call) -> tasks.TaskStatus:
        known = found(asked, call)
        if known.state in ("queued", "running"):
            fabric.tasks[asked.task_id] = msgspec.structs.replace(known, state="cancelled")
        return fabric.tasks[asked.task_id]

    def listed(asked: tasks.ListTasks, _call: Call) -> tasks.Tasks:
        chosen = [each for each in fabric.tasks.values() if asked.state in (None, each.state)]
        counts = {each.state: 1 for each in fabric.tasks.values()}
        return tasks.Tasks(tasks=chosen[: asked.limit], counts=counts, as_of=AS_OF)

    def queues(_asked: Empty, _call: Call) -> tasks.TaskQueues:
        waiting = {each.capability for each in fabric.tasks.values() if each.state == "queued"}
        return tasks.TaskQueues(queues=[task_queue(capability) for capability in sorted(waiting)])

    def limit(asked: tasks.LimitTasks, _call: Call) -> Empty:
        fabric.limited.append(asked)
        return Empty()

    shell.handle(tasks.SUBMIT_TASK, submit)
    shell.handle(tasks.GET_TASK, found)
    shell.handle(tasks.CANCEL_TASK, cancel)
    shell.handle(tasks.REPLAY_TASK, found)
    shell.handle(tasks.LIST_TASKS, listed)
    shell.handle(tasks.LIST_TASK_QUEUES, queues)
    shell.handle(tasks.LIMIT_TASKS, limit)


def task_queue(capability: str) -> tasks.TaskQueue:
    """A line of one task that nobody can do, and that may not run."""
    return tasks.TaskQueue(
        capability=capability,
        queued=1,
        delayed=0,
        running=0,
        agents=0,
        oldest_s=61.0,
        limit=0,
        reason="no agent offers it",
    )


def task(task_id: str, **changes: Any) -> tasks.TaskStatus:
    """A task that waits."""
    plain = tasks.TaskStatus(task_id=task_id, state="queued", capability="echo", max_attempts=3, queued_at=AT)
    return msgspec.structs.replace(plain, **changes)


def group(group_id: str, **changes: Any) -> error_bus.ErrorGroupDetail:
    """A group of one error of one agent."""
    plain = error_bus.ErrorGroupDetail(
        group_id=group_id,
        state="new",
        error_type="ValueError",
        message="no <number>",
        severity="error",
        grouped_by="message",
        count=1,
        first_seen=AT,
        last_seen=AT,
        agents=["whisper"],
        hosts=["pc2"],
        by_agent={"whisper": 1},
        by_host={"pc2": 1},
        other_agents=0,
        other_hosts=0,
        samples=[],
    )
    return msgspec.structs.replace(plain, **changes)


def _serve_errors(shell: Shell, fabric: Fabric) -> None:
    def listed(asked: error_bus.ListErrorGroups, _call: Call) -> error_bus.ErrorGroups:
        every = asked.state in ("", "unresolved")
        chosen = [each for each in fabric.groups.values() if every or each.state == asked.state]
        plain = [msgspec.convert(msgspec.to_builtins(each), error_bus.ErrorGroup) for each in chosen]
        return error_bus.ErrorGroups(groups=plain[: asked.limit], total=len(plain), as_of=AS_OF)

    def found(asked: error_bus.GroupId, _call: Call) -> error_bus.ErrorGroupDetail:
        if asked.group_id not in fabric.groups:
            raise NotFound(f"no group {asked.group_id}")
        return fabric.groups[asked.group_id]

    def resolve(asked: error_bus.ResolveErrorGroup, _call: Call) -> error_bus.ErrorGroup:
        resolved = msgspec.structs.replace(
            fabric.groups[asked.group_id], state="resolved", note=asked.note, resolved_at=AT, resolved_by="operator"
        )
        fabric.groups[asked.group_id] = resolved
        return msgspec.convert(msgspec.to_builtins(resolved), error_bus.ErrorGroup)

    shell.handle(error_bus.LIST_ERROR_GROUPS, listed)
    shell.handle(error_bus.GET_ERROR_GROUP, found)
    shell.handle(error_bus.RESOLVE_ERROR_GROUP, resolve)


def _serve_hub(shell: Shell, fabric: Fabric) -> None:
    nothing = hub.FabricHealth(hosts=[], services=[], agents=[], links=[], as_of=AS_OF)
    shell.handle(hub.GET_HEALTH, lambda _asked, _call: fabric.health or nothing)


SERVE: dict[str, Callable[[Shell, Fabric], None]] = {
    core_orchestrator.SERVICE: _serve_core,
    resource_manager.SERVICE: _serve_manager,
    hub.SERVICE: _serve_hub,
    error_bus.SERVICE: _serve_errors,
    security_gateway.SERVICE: lambda _shell, _fabric: None,
}


@asynccontextmanager
async def small_fabric(home: str) -> AsyncIterator[Fabric]:
    """The five services and two supervisors on ports of the system's choosing."""
    fabric = Fabric(home)
    fabric.processes["mainpc"] = [process("whisper"), process("core_orchestrator", kind="service")]
    fabric.agents = [agent("whisper")]
    places = {
        core_orchestrator.SERVICE: "mainpc",
        **dict.fromkeys((resource_manager.SERVICE, hub.SERVICE, error_bus.SERVICE, security_gateway.SERVICE), "pc2"),
        "Supervisor/mainpc": "mainpc",
        "Supervisor/pc2": "pc2",
    }
    fabric.places = places
    try:
        for name in places:
            await fabric.start(name)
        yield fabric
    finally:
        for shell in fabric.shells.values():
            await shell.close(drain_s=0)
