"""Following CoreOrchestrator's registry: which agents there are on both hosts, and where each answers.

The list is taken in, then its events, for ever; each agent is located once, when it is new or has moved, and again when it was
not there. With CoreOrchestrator away everything holds as last told, and tasks go on. It decides nothing about tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import msgspec

from common.api import core_orchestrator
from common.api.core_orchestrator import AGENTS_CHANGED, LIST_AGENTS, Agent, AgentChanged
from common.api.words import Cursor, Empty
from common.client.aio import AsyncClient
from common.client.following import Event
from common.client.keeping_up import keep_up
from common.client.pursuit import Found
from common.errors import NotFound, TandemError, Unavailable
from common.resilience.breaker import State as Breaker
from common.service.shell import Shell
from pc2.resource_manager.tasks.roster import Roster

ASK_S: Final = 2.0
AT_ONCE: Final = 16
"""Agents located at the same time."""
AGAIN_S: Final = 0.5
"""The pause before an agent that could not be located is asked for again."""

_changes = msgspec.json.Decoder(AgentChanged)


class Told(Protocol):
    """Who hears what became of the agents."""

    def woken(self, capabilities: Iterable[str]) -> None:
        """There may be an agent free for these."""
        ...

    def agent_lost(self, agent_name: str) -> None:
        """Calls in flight to the agent cannot be trusted to end."""
        ...


class Following:
    """The agents as CoreOrchestrator last told, asked by `client`; calls to them are made by `agents`."""

    _told: Told

    def __init__(self, shell: Shell, client: AsyncClient, agents: AsyncClient) -> None:
        self.roster = Roster()
        self._shell = shell
        self._client = client
        self._agents = agents
        self._places: dict[str, Found] = {}
        self._locating: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)

    def begin(self, told: Told) -> None:
        """Follow until the shell ends; `told` hears what becomes of the agents."""
        self._told = told
        target = core_orchestrator.SERVICE
        self._shell.spawn(keep_up(self._client, target, (AGENTS_CHANGED.name,), self), "following the agents")

    def place(self, agent_name: str) -> Found:
        """Where the agent answers; Unavailable while that is not known."""
        found = self._places.get(agent_name)
        if found is None:
            raise Unavailable(f"it is not known where {agent_name} answers")
        return found

    def reach(self, agent_name: str) -> tuple[Breaker, float] | None:
        """The agent's breaker, and when an open one lets a probe through (monotonic seconds); None: its place is not known."""
        found = self._places.get(agent_name)
        return None if found is None else self._agents.breaker_at(found.endpoint)

    def doubt(self, agent_name: str) -> None:
        """The agent was not where it is called: it is asked for anew, for a way that leads to it may have changed."""
        if agent_name in self._places and agent_name not in self._locating:
            self._begin_locating(agent_name)

    # what the registry tells

    async def look(self) -> Mapping[str, Cursor]:
        """Takes in the whole list."""
        listed = await self._client.call(core_orchestrator.SERVICE, LIST_AGENTS, Empty(), timeout_s=ASK_S)
        before = {agent.agent_name: agent for agent in self.roster.agents()}
        for name in self.roster.replace(listed.agents):
            self._told.agent_lost(name)
        for agent in listed.agents:
            self._find(before.get(agent.agent_name), agent)
        for name in before.keys() - {agent.agent_name for agent in listed.agents}:
            self._lose_sight(name)
        self._shell.lacks.pop(core_orchestrator.SERVICE, None)
        self._told.woken(self.roster.counts())
        return {AGENTS_CHANGED.name: listed.as_of}

    def take(self, event: Event) -> None:
        """Takes in what happened to one agent; what cannot be read is passed over, and the next list has it."""
        try:
            change = _changes.decode(event.body)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._shell.log.warning("an event of %s cannot be read: %s", event.topic, error)
            return
        name = change.agent.agent_name
        before = self.roster.get(name)
        if self.roster.take(change):
            self._told.agent_lost(name)
        if change.change == "deregistered":
            self._lose_sight(name)
        else:
            self._find(before, change.agent)
        self._told.woken(self.roster.offered_by(name))

    def away(self, reason: str) -> None:
        """The agents are as last told."""
        self._shell.lacks[core_orchestrator.SERVICE] = f"{core_orchestrator.SERVICE}: {reason}; agents are as last told"

    # where agents are

    def _find(self, before: Agent | None, agent: Agent) -> None:
        name = agent.agent_name
        same = before is not None and _place(before) == _place(agent)
        if same and (name in self._places or name in self._locating):
            return
        self._lose_sight(name)
        if agent.capabilities:
            self._begin_locating(name)

    def _begin_locating(self, name: str) -> None:
        self._locating[name] = self._shell.spawn(self._locate(name), f"locating {name}")

    def _lose_sight(self, name: str) -> None:
        self._places.pop(name, None)
        locating = self._locating.pop(name, None)
        if locating is not None:
            locating.cancel()

    async def _locate(self, name: str) -> None:
        while True:
            try:
                async with self._turn:
                    self._places[name] = await self._client.locate(name, timeout_s=ASK_S)
            except NotFound:
                break
            except TandemError as error:
                self._shell.log.info("%s is not located yet: %s", name, error.message)
                await asyncio.sleep(AGAIN_S)
            else:
                break
        self._locating.pop(name, None)
        self._told.woken(self.roster.offered_by(name))


def _place(agent: Agent) -> tuple[object, ...]:
    return agent.host, agent.port, agent.dress, agent.location, agent.boot, agent.pid
