"""The agents of both hosts, as CoreOrchestrator last told: a copy to dispatch by while CoreOrchestrator is away, too.

It asks nobody and calls nobody; where an agent answers is for `following` to know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from common.api.core_orchestrator import Agent, AgentChanged
from common.dispatch.provider import Provider, provider_of
from common.resilience.breaker import State as Breaker

Reach = Callable[[str], tuple[Breaker, float] | None]
"""An agent's breaker by the agent's name, as in `BreakerOf`; None where it is not known yet where the agent answers."""


class Roster:
    """All agents known, by name and by capability."""

    def __init__(self) -> None:
        self._agents: dict[str, Agent] = {}
        self._by_capability: dict[str, dict[str, None]] = {}

    def replace(self, agents: Iterable[Agent]) -> tuple[str, ...]:
        """Takes in the whole list; the names of those whose calls under way went with them."""
        listed = {agent.agent_name: agent for agent in agents}
        lost = [
            name
            for name, known in self._agents.items()
            if name in listed and (_moved(known, listed[name]) or listed[name].liveness == "expired")
        ]
        for name in list(self._agents):
            self._remove(name)
        for agent in listed.values():
            self._add(agent)
        return tuple(lost)

    def take(self, change: AgentChanged) -> bool:
        """Takes in what happened to one agent; whether its calls under way went with it."""
        agent = change.agent
        known = self._agents.get(agent.agent_name)
        self._remove(agent.agent_name)
        if change.change == "deregistered":
            return False
        self._add(agent)
        return change.change in ("moved", "expired") or (known is not None and _moved(known, agent))

    def agents(self) -> Collection[Agent]:
        """All that are known."""
        return self._agents.values()

    def get(self, name: str) -> Agent | None:
        """The agent of that name."""
        return self._agents.get(name)

    def offered_by(self, name: str) -> tuple[str, ...]:
        """The capabilities of an agent; none where it is not known."""
        agent = self._agents.get(name)
        return tuple(agent.capabilities) if agent is not None else ()

    def counts(self) -> dict[str, int]:
        """How many agents offer each capability."""
        return {capability: len(names) for capability, names in self._by_capability.items()}

    def providers(self, capability: str, reach: Reach) -> tuple[Provider, ...]:
        """The agents that offer the capability and can be called."""
        found: list[Provider] = []
        for name in self._by_capability.get(capability, ()):
            breaker = reach(name)
            if breaker is not None:
                agent = self._agents[name]
                found.append(provider_of(capability, agent, agent.liveness, *breaker))
        return tuple(found)

    def _add(self, agent: Agent) -> None:
        self._agents[agent.agent_name] = agent
        for capability in agent.capabilities:
            self._by_capability.setdefault(capability, {})[agent.agent_name] = None

    def _remove(self, name: str) -> None:
        agent = self._agents.pop(name, None)
        for capability in set(agent.capabilities) if agent is not None else ():
            names = self._by_capability[capability]
            del names[name]
            if not names:
                del self._by_capability[capability]


def _moved(known: Agent, now: Agent) -> bool:
    """Whether it is another process or in another place than before."""
    return (known.boot, known.host, known.port, known.location) != (now.boot, now.host, now.port, now.location)
