"""CoreOrchestrator: who is where, requests in flight, and the twin; this file wires them to one shell and serves their verbs.

It loads what it knew, opens its ports, and is ready: it waits for no other service. The registry's verbs are here, requests are
in `dispatching`, what others say in `watching`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from common.api import core_orchestrator as api
from common.api.catalog import CORE_ORCHESTRATOR
from common.api.supervisor import Process
from common.api.words import Empty
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.client.settings import ClientSettings
from common.errors import Forbidden, NotFound, TandemError
from common.registry.location import Asker, Routes, endpoint_for, is_foreign_loopback, is_own_host
from common.resilience.breaker import BreakerSettings
from common.service.call import Call
from common.service.process import run_service
from common.service.shell import Shell, ShellSettings
from common.store.protocol import RecordStore
from main_pc.core_orchestrator import registry as registrations
from main_pc.core_orchestrator import request_facts, request_limits
from main_pc.core_orchestrator.dispatching import Dispatching
from main_pc.core_orchestrator.registry import AGENTS, LOST, Registry
from main_pc.core_orchestrator.relays import Relays
from main_pc.core_orchestrator.request_book import RequestBook
from main_pc.core_orchestrator.turns import Turns
from main_pc.core_orchestrator.twin import TwinView
from main_pc.core_orchestrator.watching import SUPERVISOR, Watching

HOST: Final = "mainpc"
STORE: Final = "core_orchestrator"
TICK_S: Final = 0.25
TRIM_S: Final = 2.0
DRAIN_S: Final = 3.0

CLIENT: Final = ClientSettings(breaker=BreakerSettings(slow_call_s=3_600.0))
"""An agent may compute for as long as its request allows; that makes no call slow."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is held."""

    registry: registrations.Limits = field(default_factory=registrations.Limits)
    requests: request_limits.Limits = field(default_factory=request_limits.Limits)


class CoreOrchestrator:
    """The service, made on its running loop; `open` begins, `close` ends it."""

    def __init__(
        self, settings: ShellSettings, directory: Directory, store: RecordStore, limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        self.shell = shell = Shell(settings, api.TOPICS, store)
        self._host = settings.host
        self._relays = Relays(directory)
        self._addresses = _addresses(directory)
        self._routes = Routes(self._addresses, self._relays.known, _near(self._addresses))
        self._client = open_async_client(CLIENT, directory)
        self._twin = TwinView()
        self._turns = Turns(shell, self._twin, self._load)
        self._book = RequestBook(limits.requests)
        self._registry = Registry(limits.registry, self._book.in_flight)
        self._watching = Watching(shell, self._turns, self._twin, self._client, directory, self._process_told)
        self._dispatching = Dispatching(
            shell, self._turns, self._book, self._registry, self._client, self._routes, self._watching.expects
        )
        self._must_remind = False
        shell.breakers = self._client.breakers
        self._add_routes()
        self._show_metrics()

    async def open(self) -> None:
        """Load what was known and serve; StorageUnavailable, Conflict when a port is taken."""
        try:
            self.shell.journal.rebuild()
            await self.shell.open(ready=False)
        except TandemError:
            await self._client.close()
            await self.shell.close(drain_s=0)
            raise
        self._dispatching.resume()
        self.shell.set_ready()
        self.shell.every(TICK_S, self._tick)
        self.shell.every(TRIM_S, self._dispatching.trim)
        self._watching.begin()
        self._relays.follow(self._client, self.shell.spawn)

    async def close(self) -> None:
        """Take no new work, let calls under way end for a while, and stop; what is unfinished goes on in the next life."""
        await asyncio.gather(self.shell.drain(DRAIN_S), self._dispatching.finish())
        await self._client.close()
        await self.shell.close()

    def _add_routes(self) -> None:
        handle = self.shell.handle
        handle(api.REGISTER_AGENT, self._register)
        handle(api.DEREGISTER_AGENT, self._deregister)
        handle(api.HEARTBEAT, self._heartbeat)
        handle(api.GET_AGENT_ENDPOINT, self._endpoint)
        handle(api.LIST_AGENTS, self._list_agents)
        handle(api.FIND_AGENTS, self._find_agents)
        handle(api.SUBMIT_REQUEST, self._dispatching.submit)
        handle(api.GET_REQUEST, self._dispatching.get)
        handle(api.CANCEL_REQUEST, self._dispatching.cancel)
        handle(api.GET_TWIN, self._get_twin)
        handle(api.GET_METRICS, self._get_metrics)
        handle(api.GET_HISTORY, self._get_history)

    def _show_metrics(self) -> None:
        gauge, dispatching = self.shell.metrics.read_gauge, self._dispatching
        gauge("tandem_agents_registered", "Agents in the registry.", lambda: float(len(self._registry)))
        gauge("tandem_requests_active", "Requests waiting or running.", lambda: float(dispatching.active))
        gauge("tandem_requests_calls", "Calls to agents under way.", lambda: float(dispatching.calls))

    # memory

    def _load(self) -> None:
        """Begin from what the store holds; StorageUnavailable, and nothing changed, when it cannot be read."""
        known = [fact for _, fact in AGENTS.load(self.shell.store)]
        stored = request_facts.load(self.shell.store)
        now = self._turns.now()
        self._registry.restore(known, now)
        self._book.load(stored, now)
        self._dispatching.loaded()
        self._must_remind = True
        self._show_own(now)

    def _show_own(self, now: float) -> None:
        name, cursor = self.shell.settings.service, self.shell.publisher.cursor
        agents = {agent.agent_name: agent for agent in self._registry.agents(now)}
        requests = {request_id: self._book.status(request_id) for request_id in self._book.active}
        as_of = cursor(api.AGENTS_CHANGED.name)
        self._twin.replace(name, api.AGENTS_CHANGED.name, as_of, "agents", "registration", agents, now)
        as_of = cursor(api.REQUESTS_CHANGED.name)
        self._twin.replace(name, api.REQUESTS_CHANGED.name, as_of, "requests", "status", requests, now)

    # the registry's verbs

    def _register(self, asked: api.RegisterAgent, call: Call) -> api.Registered:
        if is_foreign_loopback(asked, call.host, self._routes):
            text = (
                f"{call.identity} is on {call.host} and cannot offer what answers on the loopback of {asked.location}"
            )
            raise Forbidden(text, mend=f"register {asked.agent_name} from {asked.location} itself")
        self.shell.journal.begin()
        self._apply(self._registry.register(asked, home=call.host, at=self._turns.at()))
        return api.Registered(boot=self.shell.boot)

    def _deregister(self, asked: api.AgentName, _call: Call) -> Empty:
        self.shell.journal.begin()
        self._apply(self._registry.deregister(asked.agent_name))
        return Empty()

    def _heartbeat(self, beat: api.Heartbeat, _call: Call) -> api.Registered:
        now = self._turns.now()
        self._changed(self._registry.heartbeat(beat, now))
        self._twin.observe(beat.agent_name, beat, self._turns.at(), now)
        return api.Registered(boot=self.shell.boot)

    def _endpoint(self, asked: api.LocateAgent, call: Call) -> api.Endpoint:
        asker = Asker(call.host, curve=asked.curve)
        return endpoint_for(self._registry.entry(asked.agent_name), asker, self._routes)

    def _list_agents(self, _asked: Empty, _call: Call) -> api.Agents:
        return self._agents(None)

    def _find_agents(self, asked: api.FindAgents, _call: Call) -> api.Agents:
        return self._agents(asked.capability)

    def _agents(self, capability: str | None) -> api.Agents:
        as_of = self.shell.publisher.cursor(api.AGENTS_CHANGED.name)
        return api.Agents(agents=self._registry.agents(self._turns.now(), capability), as_of=as_of)

    def _get_twin(self, asked: api.GetTwin, _call: Call) -> api.Twin:
        return self._twin.show(asked.part, self._turns.now())

    def _get_metrics(self, asked: api.GetMetrics, _call: Call) -> api.Metrics:
        return self._twin.metrics(asked.prefix, self._turns.now())

    def _get_history(self, asked: api.GetHistory, _call: Call) -> api.History:
        return self._twin.history(asked.metric, asked.points)

    # what happens to agents

    def _apply(self, facts: Sequence[registrations.Fact]) -> None:
        now = self._turns.now()
        self.shell.journal.write([change for fact in facts for change in registrations.rows(fact)])
        self._changed([self._registry.apply(fact, now) for fact in facts])

    def _changed(self, events: Sequence[api.AgentChanged]) -> None:
        if not events:
            return
        for event in events:
            name = event.agent.agent_name
            self._turns.publish(api.AGENTS_CHANGED, name, event)
            if event.change in LOST:
                self._dispatching.agent_lost(name)
        self._dispatching.dispatch()

    def _process_told(self, host: str, process: Process) -> None:
        """A supervisor said what an agent's process is doing: gone is gone, promise or not, until it is seen again."""
        if process.kind != "agent":
            return
        try:
            known = self._registry.entry(process.name).asked
        except NotFound:
            return
        now, here = self._turns.now(), known.location == host
        if here and process.phase == "ready":
            self._changed(self._registry.seen(process.name, now))
        elif here and process.phase != "draining" and not (process.pid and process.pid == known.pid):
            self._changed(self._registry.died(process.name, now))

    def _tick(self) -> None:
        self._addresses.update(self.shell.authority.addresses)
        self._changed(self._registry.expire(self._turns.now()))
        self._dispatching.tick()
        if self._must_remind:
            self._must_remind = False
            self._watching.remind()


def _near(addresses: dict[str, str]) -> frozenset[str]:
    """The hosts whose supervisors this process reaches on its own loopback: they are this machine."""
    return frozenset(host for host, address in addresses.items() if is_own_host(address))


def _addresses(directory: Directory) -> dict[str, str]:
    """Each host's address, as this process reaches its supervisor."""
    places = {name: directory.place(name) for name in directory.names() if name.startswith(SUPERVISOR)}
    return {
        name.removeprefix(SUPERVISOR): place.requests.address.removeprefix("tcp://").rpartition(":")[0]
        for name, place in places.items()
        if place is not None
    }


def main() -> int:
    """The process; its exit status."""
    return run_service(CORE_ORCHESTRATOR, HOST, STORE, CoreOrchestrator)
