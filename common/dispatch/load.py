"""What a dispatcher has in flight: its calls to agents, how many each agent has, and whose turn was last.

A call is in flight until it is settled, whatever became of the work it was made for: only then is the agent's place free again.
It calls nobody.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

Call = tuple[str, int]
"""A call's name: the work's id, and the number of the attempt."""

TURNS_KEPT: Final = 10_000
"""Agents whose last turn is remembered for round robin; the one unused for longest is forgotten first."""


@dataclass(slots=True)
class Load:
    """The calls in flight, by agent; `turn` counts all that were ever begun."""

    calls: dict[Call, str] = field(default_factory=dict)
    turn: int = 0
    _by_agent: dict[str, dict[Call, None]] = field(default_factory=dict)
    _turns: dict[str, int] = field(default_factory=dict)

    def begin(self, call: Call, agent_name: str) -> None:
        """A call goes to the agent; it is the agent's turn."""
        self.calls[call] = agent_name
        self._by_agent.setdefault(agent_name, {})[call] = None
        self.turn += 1
        self._turns.pop(agent_name, None)
        self._turns[agent_name] = self.turn
        if len(self._turns) > TURNS_KEPT:
            del self._turns[next(iter(self._turns))]

    def settle(self, call: Call) -> str:
        """The call is over; the agent's name. A call that is not in flight is a bug and raises KeyError."""
        agent_name = self.calls.pop(call)
        calls = self._by_agent[agent_name]
        del calls[call]
        if not calls:
            del self._by_agent[agent_name]
        return agent_name

    def in_flight(self, agent_name: str) -> int:
        """Calls to the agent that have not been settled."""
        return len(self._by_agent.get(agent_name, ()))

    def last_used(self, agent_name: str) -> int:
        """The turn at which the agent was last called; 0 when never."""
        return self._turns.get(agent_name, 0)

    def calls_to(self, agent_name: str) -> Collection[Call]:
        """Every unsettled call to the agent, oldest first."""
        return tuple(self._by_agent.get(agent_name, ()))
