"""ResourceManager: plans leases over all hosts' cards and keeps the task queue; this file wires both to one shell.

It loads the intents of its former life and the tasks, looks at every host once, and serves; it waits for no other service.
What a lease verb asks of a card is its supervisor's to answer: `calling` asks and forwards, `watching` keeps the view, `staying`
keeps the callers. The task queue stands in `tasks`.

Leases whose grant was not heard. With an idempotency key the lease waits for its caller's retry, and ends as any other: with
its owner's process, or by its TTL. Without a key nobody can come for it, and it is given back. A plain caller that left while it
waited cannot be seen to be gone; its lease ends with its owner's process, or by its TTL.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import msgspec

from common.api import decisions, gpus, resource_manager
from common.api import leases as api
from common.api.catalog import RESOURCE_MANAGER
from common.api.host_memory import HostMemory
from common.api.words import Empty
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.client.settings import ClientSettings, at_own_pace
from common.config.settings import AgentEnvironment
from common.errors import TandemError
from common.resilience.breaker import BreakerSettings
from common.service.call import Call
from common.service.process import run_service
from common.service.shell import Shell, ShellSettings
from common.store.open import open_store
from common.store.protocol import Durability, RecordStore
from common.vram.lease_decision import Note
from common.vram.receipts import Receipts
from pc2.resource_manager import host_plans, intents
from pc2.resource_manager.borrowing import Borrowing
from pc2.resource_manager.calling import Calling
from pc2.resource_manager.events import LeaseSeen
from pc2.resource_manager.instructions import (
    AskSupervisor,
    Instruction,
    Progress,
    Reply,
    ReplyError,
    ReturnLease,
    WithdrawAsk,
)
from pc2.resource_manager.planner import Planner
from pc2.resource_manager.staying import Staying
from pc2.resource_manager.steps import PlannerPolicy
from pc2.resource_manager.tasks.limits import Limits
from pc2.resource_manager.tasks.serving import TaskService
from pc2.resource_manager.turns import Turns
from pc2.resource_manager.watching import Watching

HOST: Final = "pc2"
STORE: Final = "resource_manager"
TASK_STORE: Final = "tasks"
TICK_S: Final = 0.25
FIRST_LOOK_S: Final = 0.5
"""How long a start waits for the first look at the hosts, so that the first caller finds their cards."""
FINISH_S: Final = 1.0
"""How long asks under way keep the service from stopping."""

CLIENT: Final = at_own_pace()
"""Whether to ask again is the planner's to say, or the caller's; a supervisor that was away is heard as soon as it is back."""

AGENTS: Final = ClientSettings(breaker=BreakerSettings(slow_call_s=31_536_000.0))
"""An agent may work for as long as its task allows; that makes no call slow."""


class ResourceManager:
    """The service, made on its running loop; `open` begins, `close` ends it."""

    def __init__(
        self,
        settings: ShellSettings,
        directory: Directory,
        store: RecordStore,
        task_store: RecordStore,
        policy: PlannerPolicy | None = None,
        task_limits: Limits | None = None,
    ) -> None:
        policy = policy or PlannerPolicy()
        self.shell = shell = Shell(settings, resource_manager.TOPICS, store)
        self._client = open_async_client(CLIENT, directory)
        self._calling = Calling(shell, self._client, directory, policy.answer_s)
        self._staying = Staying(shell)
        self._receipts = Receipts()
        self._planner = Planner(self._calling.hosts, shell.rng, policy)
        self._turns = Turns(shell, self._planner, self._perform)
        self._calling.turns = self._staying.turns = self._turns
        self._watching = Watching(shell, self._turns, self._client, self._planner.fleet, self._calling.hosts)
        self._agents = open_async_client(AGENTS, directory)
        borrowing = Borrowing(shell, self._client, self._calling, self._planner, self._away)
        self._tasks = TaskService(shell, self._client, self._agents, task_store, borrowing, task_limits)
        shell.breakers = lambda: [*self._client.breakers(), *self._agents.breakers()]
        self._add_routes()
        self._show_metrics()

    async def open(self) -> None:
        """Load what was intended, look at the hosts, and serve; StorageUnavailable, Conflict when a port is taken."""
        try:
            self._tasks.load()
            self._planner.restore(intents.load(self.shell.store), self._turns.now())
            self._watching.begin()
            await self._watching.looked(FIRST_LOOK_S)
            await self.shell.open()
        except TandemError:
            await self._hang_up()
            await self.shell.close(drain_s=0)
            raise
        self.shell.every(TICK_S, self._tick)
        self._tasks.begin()

    async def close(self) -> None:
        """Take no new work, let asks under way end for a while, send the waiting away, and stop."""
        await asyncio.gather(self.shell.drain(2 * FINISH_S), self._finish(), self._tasks.finish(FINISH_S))
        await self._hang_up()
        await self.shell.close()

    async def _finish(self) -> None:
        await self._calling.finish(FINISH_S)
        self._staying.dismiss()

    async def _hang_up(self) -> None:
        await self._client.close()
        await self._agents.close()

    def _add_routes(self) -> None:
        handle = self.shell.handle
        handle(api.ACQUIRE_LEASE, self._staying.acquire)
        handle(api.RENEW_LEASE, self._renew)
        handle(api.MARK_LEASE, self._mark)
        handle(api.RELEASE_LEASE, self._release)
        handle(api.LIST_LEASES, self._list_leases)
        handle(gpus.GET_GPUS, self._get_gpus)
        handle(decisions.PLAN, self._plan)
        handle(decisions.EXPLAIN, self._explain)

    def _show_metrics(self) -> None:
        metrics, staying = self.shell.metrics, self._staying
        metrics.read_gauge("tandem_vram_waiting", "Callers who wait for a lease.", lambda: float(len(staying)))
        metrics.read_gauge("tandem_vram_hosts_away", "Hosts that cannot be asked.", lambda: float(self._watching.away))
        metrics.read_counter("tandem_vram_granted_total", "Leases granted to callers.", lambda: staying.granted)
        metrics.read_counter(
            "tandem_vram_refused_total",
            "Callers refused a lease, by error code.",
            lambda: {(code,): float(times) for code, times in list(staying.refused.items())},
            labels=("code",),
        )

    def _away(self) -> dict[str, str]:
        """The hosts that cannot be asked, and why."""
        fleet = self._planner.fleet
        reasons = fleet.missing(self._turns.now())
        return {host: reasons.get(host, "away") for host in self._calling.hosts if not fleet.reachable(host)}

    # what the planner wants done

    def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case AskSupervisor():
                self._calling.ask(instruction)
            case WithdrawAsk():
                self._calling.withdraw(instruction)
            case ReturnLease():
                self._calling.give_back(instruction)
            case Reply():
                self._staying.reply(instruction)
            case ReplyError():
                self._staying.refuse(instruction)
            case Progress():
                self._staying.progress(instruction)
            case Note(receipt, key):
                self._receipts.keep(receipt, key)

    def _tick(self) -> None:
        self._turns.tick()
        self._staying.repeat()

    # the verbs that supervisors answer

    async def _renew(self, asked: api.RenewLease, call: Call) -> api.LeaseRenewed:
        host = self._planner.fleet.host_of(asked.lease_id)
        _, renewed = await self._calling.forward(host, api.RENEW_LEASE, asked, call)
        return renewed

    async def _mark(self, asked: api.MarkLease, call: Call) -> api.LeaseMarked:
        _, marked = await self._calling.forward(
            self._planner.fleet.host_of(asked.lease_id), api.MARK_LEASE, asked, call
        )
        return marked

    async def _release(self, asked: api.ReleaseLease, call: Call) -> Empty:
        fleet = self._planner.fleet
        host, done = await self._calling.forward(fleet.host_of(asked.lease_id), api.RELEASE_LEASE, asked, call)
        for lease in fleet.leases(host):
            if lease.lease_id == asked.lease_id:  # its bytes can be had before the supervisor's own event says so
                self._turns.tell(LeaseSeen(host, api.LeaseChanged(change="released", lease=lease)))
        return done

    async def _list_leases(self, asked: api.ListLeases, _call: Call) -> api.Leases:
        as_of = self.shell.publisher.cursor(api.LEASE_CHANGED.name)
        found: list[api.Lease] = []
        missing: dict[str, str] = {}
        answers = await self._calling.ask_all(asked.host, api.LIST_LEASES, lambda host: api.ListLeases(host=host))
        for host, answer in answers.items():
            if isinstance(answer, TandemError):
                known = self._planner.fleet.leases(host)
                found += (msgspec.structs.replace(lease, verified=False) for lease in known)
                missing[host] = f"its leases are as last told: {answer.message}"
            else:
                found += answer.leases
                missing |= answer.missing
        return api.Leases(leases=found, as_of=as_of, missing=missing)

    async def _get_gpus(self, asked: gpus.GetGpus, _call: Call) -> gpus.Gpus:
        found: list[gpus.Card] = []
        hosts: list[HostMemory] = []
        missing: dict[str, str] = {}
        answers = await self._calling.ask_all(asked.host, gpus.GET_GPUS, lambda host: gpus.GetGpus(host=host))
        for host, answer in answers.items():
            if isinstance(answer, TandemError):
                reason = f"its cards are as last published: {answer.message}"
                known = self._planner.fleet.cards(host)
                found += (msgspec.structs.replace(card, schedulable=False, reason=reason) for card in known)
                missing[host] = reason
            else:
                found += answer.cards
                hosts += answer.hosts
                missing |= answer.missing
        return gpus.Gpus(cards=found, missing=missing, hosts=hosts)

    async def _plan(self, asked: decisions.PlanLease, _call: Call) -> decisions.LeasePlan:
        if not host_plans.wanted(asked):
            return self._planner.plan(asked, self._turns.now())
        hosts = [host for host in self._calling.hosts if asked.host in ("", host)]
        told = await self._calling.ask_each(
            hosts, decisions.PLAN, lambda host: msgspec.structs.replace(asked, host=host)
        )
        return host_plans.weighed(partial(self._planner.plan, asked, self._turns.now()), told)

    async def _explain(self, asked: decisions.Explain, _call: Call) -> decisions.Explanation:
        answers = await self._calling.ask_all("", decisions.EXPLAIN, lambda _: asked)
        receipts: list[decisions.Receipt] = []
        for answer in answers.values():
            if not isinstance(answer, TandemError):
                receipts += answer.receipts
        receipts += self._receipts.explain(asked).receipts
        receipts.sort(key=lambda receipt: receipt.at, reverse=True)
        return decisions.Explanation(receipts=receipts[: asked.limit])


def _make(settings: ShellSettings, directory: Directory, store: RecordStore) -> ResourceManager:
    """Tasks have a store of their own beside the leases', so that no lease waits for a task's flush."""
    environment = AgentEnvironment.read()
    task_store = open_store(environment.store or environment.home / settings.host, TASK_STORE, Durability.FULL)
    return ResourceManager(settings, directory, store, task_store)


def main() -> int:
    """The process; its exit status."""
    return run_service(RESOURCE_MANAGER, HOST, STORE, _make)
