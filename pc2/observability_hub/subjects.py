"""Who is watched, and by which way it can be asked: facts about one process, host by host. Judges nothing.

A process may be known from its supervisor, from the registry, or both; they meet under `host/name`. Processes on this machine
are asked on their health ports; those of a host behind a link by the addresses that the directory and the registry tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from common.api.core_orchestrator import Agent
from common.api.observability_hub import What
from common.api.supervisor import Process
from pc2.observability_hub.evidence import Evidence
from pc2.observability_hub.schedule import Pace
from pc2.observability_hub.steady import Steady

SUPERVISOR: Final = "supervisor"
LOOPBACK: Final = "127.0.0.1"
How = Literal["zmq", "http", "tcp", "call"]


@dataclass(frozen=True, slots=True)
class Way:
    """How to ask: a health port over ZeroMQ or HTTP, a bare connect, or a `call` of the service named `target`."""

    how: How
    host: str = LOOPBACK
    port: int = 0
    target: str = ""


@dataclass(slots=True)
class Subject:
    """One process that is watched; `told` and `agent` are what its supervisor and the registry say.

    `relayed` is the way across to one that cannot be called by its name: its health port as the relay offers it. A bare
    connection to a relay says nothing of who is behind it.
    """

    host: str
    name: str
    what: What
    near: bool
    told: Process | None = None
    ended_unasked: bool = False
    agent: Agent | None = None
    relayed: Way | None = None
    work: str = ""
    life: int = 0
    """Grows when what answers there is another process; a probe of an earlier one says nothing."""
    evidence: Evidence = field(default_factory=Evidence)
    pace: Pace = field(default_factory=Pace)
    steady: Steady = field(default_factory=Steady)

    @property
    def key(self) -> str:
        """Its name among all."""
        return f"{self.host}/{self.name}"

    @property
    def way(self) -> Way | None:
        """How it is asked; None where it cannot be, or where nobody expects an answer now."""
        if self.what == SUPERVISOR:
            return Way("call", target=f"Supervisor/{self.host}")
        if self.told is not None and self.told.phase != "ready":
            return None
        if not self.near:
            return self._across()
        return self._health_port() or self._as_registered()

    def _health_port(self) -> Way | None:
        told = self.told
        if told is None or told.probe == "none":
            return None
        if told.probe == "tcp":
            port = told.health_check_port or told.port
            return Way("tcp", port=port) if port else None
        return Way(told.probe, port=told.health_check_port) if told.health_check_port else None

    def _as_registered(self) -> Way | None:
        """One without a health port is only connected to: it may well be busy with what it does one at a time."""
        agent = self.agent
        if agent is None:
            return None
        host = LOOPBACK if agent.host in ("localhost", "*", "0.0.0.0") else agent.host
        if agent.health_check_port:
            return Way("zmq", host, agent.health_check_port)
        return Way("tcp", host, agent.port)

    def _across(self) -> Way | None:
        if self.what == "service":
            speaks = self.told is None or self.told.probe == "zmq"  # else its supervisor's word is all that crosses
            return Way("call", target=wire_name(self.name)) if speaks else None
        if self.agent is not None and self.agent.dress == "native":
            return Way("call", target=self.name)
        return self.relayed


def wire_name(name: str) -> str:
    """A service's name on the wire, from its name in a startup file: `core_orchestrator` is `CoreOrchestrator`."""
    return "".join(word.capitalize() for word in name.split("_"))
