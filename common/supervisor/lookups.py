"""Look-ups on a host that may be alone: keeps a copy of CoreOrchestrator's registry, in step and on disk, and answers from it.

The answers are those that CoreOrchestrator would give, by the same rules, with the age of the copy. It changes no registration.
What could not be written is written whole once the store takes something again; the copy in memory stays meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from common.api import core_orchestrator as api
from common.api.words import Cursor, Empty
from common.client.aio import AsyncClient
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.config.schema import Startup
from common.errors import StorageUnavailable
from common.registry.copy import AGENTS, STEPS, RegistryCopy
from common.registry.location import Asker, Relayed, Routes
from common.service.call import Call
from common.service.shell import Shell
from common.store.protocol import Change
from common.supervisor.whereabouts import LOOPBACK, neighbours

ASK_TIMEOUT_S: Final = 2.0
STEP_S: Final = 1.0
KEPT_STEPS: Final = 10
"""Every so many steps the time of the last is written; after a restart the copy's age is known to that."""


class Lookups:
    """One host's copy. `relayed` tells where this host's relay offers agents, `changed` hears when any agent did."""

    def __init__(
        self, shell: Shell, startup: Startup, relayed: Callable[[], Mapping[str, Relayed]], changed: Callable[[], None]
    ) -> None:
        self._shell = shell
        self._host = startup.host
        self._relayed = relayed
        self._changed = changed
        own = dict.fromkeys((startup.host, *neighbours(startup)), LOOPBACK)
        self._addresses = {**{host: peer.address for host, peer in startup.peers.items()}, **own}
        self._copy = RegistryCopy()
        self._in_step = False
        self._unkept = False
        self._steps = 0

    @property
    def agents(self) -> Sequence[api.Agent]:
        """All agents as last told."""
        return self._copy.agents

    def agent(self, agent_name: str) -> api.Agent | None:
        """One agent as last told."""
        return self._copy.agent(agent_name)

    def add_routes(self) -> None:
        """Serve the look-ups."""
        self._shell.handle(api.GET_AGENT_ENDPOINT, self._endpoint)
        self._shell.handle(api.LIST_AGENTS, self._list)
        self._shell.handle(api.FIND_AGENTS, self._find)

    def open(self) -> None:
        """Take in what was kept; one that cannot be read is begun anew, since it is only a copy."""
        store = self._shell.store
        try:
            agents, steps = [one for _, one in AGENTS.load(store)], [one for _, one in STEPS.load(store)]
        except StorageUnavailable as error:
            self._shell.log.warning("the copy of the registry is begun anew: %s", error.message)
            self._unkept = True
            return
        self._copy.restore(agents, steps)
        self._changed()

    def follow(self, client: AsyncClient) -> None:
        """Keep up with CoreOrchestrator by `client`, as long as the shell lives."""
        self._client = client
        self._shell.spawn(
            keep_up(client, api.SERVICE, [api.AGENTS_CHANGED.name], self), "keeping a copy of the registry"
        )
        self._shell.every(STEP_S, self._step)

    # what CoreOrchestrator says

    async def look(self) -> Mapping[str, Cursor]:
        """Lists its agents."""
        listed = await self._client.call(
            api.SERVICE, api.LIST_AGENTS, Empty(), timeout_s=ASK_TIMEOUT_S, idempotent=False
        )
        self._keep(self._copy.listed(listed, self._shell.clock.wall()))
        self._in_step = True
        self._changed()
        return {api.AGENTS_CHANGED.name: listed.as_of}

    def take(self, event: Event) -> None:
        """What is no change of an agent is passed over: the next list has it."""
        with suppress(msgspec.MsgspecError, UnicodeError):
            told = msgspec.json.decode(event.body, type=api.AgentChanged)
            self._keep(self._copy.changed(told, event.cursor, self._shell.clock.wall()))
            self._changed()

    def away(self, _reason: str) -> None:
        """From now on the copy ages; its answers say so."""
        self._in_step = False

    def _step(self) -> None:
        if self._unkept and self._shell.journal.able:
            self._keep_all()
        if self._in_step:
            rows = self._copy.heard(self._shell.clock.wall())
            self._steps = (self._steps + 1) % KEPT_STEPS
            if not self._steps:
                self._keep(rows)

    # what is kept

    def _keep_all(self) -> None:
        try:
            stored = [key for key, _ in self._shell.store.load(AGENTS.table)]
        except StorageUnavailable:
            return
        known = {agent.agent_name: agent for agent in self._copy.agents}
        gone = [AGENTS.delete(name) for name in stored if name not in known]
        self._unkept = False
        self._keep([*gone, *(AGENTS.put(name, agent) for name, agent in known.items())])

    def _keep(self, rows: Sequence[Change]) -> None:
        if not rows:
            return
        try:
            self._shell.journal.begin()
            self._shell.journal.write(rows)
        except StorageUnavailable:
            self._unkept = True
        else:
            self._shell.journal.hold(self._kept)

    def _kept(self, failure: StorageUnavailable | None) -> None:
        self._unkept = self._unkept or failure is not None

    # answers

    def _endpoint(self, asked: api.LocateAgent, call: Call) -> api.Endpoint:
        relayed = {(self._host, name): where for name, where in self._relayed().items()}
        asker, routes = Asker(call.host, curve=asked.curve), Routes(self._addresses, relayed)
        return self._copy.endpoint(asked.agent_name, asker, routes, self._shell.clock.wall())

    def _list(self, _asked: Empty, _call: Call) -> api.Agents:
        return self._copy.find(None, self._shell.clock.wall())

    def _find(self, asked: api.FindAgents, _call: Call) -> api.Agents:
        return self._copy.find(asked.capability, self._shell.clock.wall())
