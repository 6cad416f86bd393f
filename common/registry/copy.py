"""A copy of the registry: what its lists and events said, how old that is, and the answers that can be given from it.

It is in step while the registry's events are heard, and ages from the last moment that it was. It connects to nothing and keeps
nothing on disk: its keeper writes the rows of what changed, and hands them back after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import Struct, structs

from common.api.core_orchestrator import Agent, AgentChanged, Agents, Endpoint, Liveness
from common.api.words import Cursor
from common.errors import NotFound, Unavailable
from common.registry.location import Asker, Routes, endpoint_for
from common.registry.ranking import rank
from common.store.protocol import Change
from common.store.records import Records


class Step(Struct, frozen=True, kw_only=True):
    """When the copy was last in step with the registry (seconds since 1970), and where its events stood."""

    at: float
    as_of: Cursor


AGENTS: Final = Records("registry_copy", Agent)
STEPS: Final = Records("registry_copy_step", Step)
_STEP: Final = "step"


@dataclass(frozen=True, slots=True)
class _Known:
    asked: Agent

    @property
    def liveness(self) -> Liveness:
        return self.asked.liveness


class RegistryCopy:
    """The agents as last told. `wall` is seconds since 1970; the age is of the calendar, since a copy outlives its process."""

    def __init__(self) -> None:
        self._agents: dict[str, Agent] = {}
        self._step: Step | None = None

    def restore(self, agents: Iterable[Agent], steps: Iterable[Step]) -> None:
        """Begin anew from what was kept."""
        self._agents = {agent.agent_name: agent for agent in agents}
        self._step = next(iter(steps), None)

    # what the registry says

    def listed(self, listed: Agents, wall: float) -> list[Change]:
        """A whole list came: the rows that keep it."""
        now = {agent.agent_name: agent for agent in listed.agents}
        gone = [AGENTS.delete(name) for name in self._agents if name not in now]
        put = [AGENTS.put(name, agent) for name, agent in now.items() if self._agents.get(name) != agent]
        self._agents = now
        return [*gone, *put, *self.heard(wall, listed.as_of)]

    def changed(self, event: AgentChanged, as_of: Cursor, wall: float) -> list[Change]:
        """An agent changed: the rows that keep it."""
        name = event.agent.agent_name
        if event.change == "deregistered":
            known = self._agents.pop(name, None)
            rows = [] if known is None else [AGENTS.delete(name)]
        else:
            self._agents[name] = event.agent
            rows = [AGENTS.put(name, event.agent)]
        return [*rows, *self.heard(wall, as_of)]

    def heard(self, wall: float, as_of: Cursor | None = None) -> list[Change]:
        """The copy is in step now: the row that keeps this. Without `as_of`, where it stood before."""
        known = as_of or (self._step.as_of if self._step is not None else None)
        if known is None:
            return []
        self._step = Step(at=wall, as_of=known)
        return [STEPS.put(_STEP, self._step)]

    # questions

    @property
    def agents(self) -> Sequence[Agent]:
        """All agents as last told."""
        return list(self._agents.values())

    def agent(self, agent_name: str) -> Agent | None:
        """One agent as last told."""
        return self._agents.get(agent_name)

    def age_s(self, wall: float) -> float:
        """Seconds since the copy was last in step. Unavailable where it never was."""
        if self._step is None:
            raise Unavailable("this host has no copy of the registry yet; CoreOrchestrator was never heard here")
        return max(0.0, wall - self._step.at)

    def find(self, capability: str | None, wall: float) -> Agents:
        """All agents, or those that offer `capability`, in the registry's own order. Unavailable where there is no copy."""
        age_s = self.age_s(wall)
        found = [agent for agent in self._agents.values() if capability is None or capability in agent.capabilities]
        found.sort(key=lambda agent: rank(agent.liveness, agent.in_flight, agent.agent_name))
        assert self._step is not None
        return Agents(agents=found, as_of=self._step.as_of, age_s=age_s)

    def endpoint(self, agent_name: str, asker: Asker, routes: Routes, wall: float) -> Endpoint:
        """Where `asker` finds the agent. NotFound; Unavailable where there is no copy, or no way from there."""
        age_s = self.age_s(wall)
        agent = self._agents.get(agent_name)
        if agent is None:
            raise NotFound(f"no agent {agent_name!r} was registered {age_s:.0f} s ago; register it, or see list_agents")
        return structs.replace(endpoint_for(_Known(agent), asker, routes), age_s=age_s)
