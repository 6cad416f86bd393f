"""What supervisors and the registry say, for tests: processes, agents and vitals with what matters in them."""

from __future__ import annotations

from typing import Any

from common.api.core_orchestrator import Agent
from common.api.supervisor import Process, Vitals


def process(name: str, phase: str = "ready", **fields: Any) -> Process:
    """A process of some host."""
    given: dict[str, Any] = {
        "kind": "agent",
        "waiting_for": "",
        "pid": 7 if phase == "ready" else 0,
        "start_time": 1,
        "restarts": 0,
        "uptime_s": 1.0,
        "rss_bytes": 1,
        "cpu_pct": 0.0,
        "port": 0,
        "health_check_port": 9,
        "capabilities": [],
        "last_exit": "",
        "stderr_tail": [],
        "since": "",
    }
    return Process(name=name, phase=phase, **(given | fields))  # type: ignore[arg-type]


def agent(name: str, **fields: Any) -> Agent:
    """An agent of the registry."""
    given: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 5,
        "health_check_port": 0,
        "events_port": 0,
        "capabilities": [],
        "verbs": {},
        "idempotent": [],
        "metadata": {},
        "liveness": "alive",
        "dress": "native",
        "location": "pc2",
        "boot": "boot-1",
        "pid": 7,
        "ttl_s": 10.0,
        "heard_s": 0.0,
        "in_flight": 0,
        "registered_at": "",
    }
    return Agent(agent_name=name, **(given | fields))


def vitals(host: str, **fields: Any) -> Vitals:
    """Vitals of a host that is well."""
    given: dict[str, Any] = {
        "cpu_pct": 1.0,
        "load_1m": 1.0,
        "cores": 2,
        "memory_total_bytes": 100,
        "memory_used_bytes": 10,
        "swap_used_bytes": 0,
        "disk_total_bytes": 100,
        "disk_free_bytes": 90,
        "uptime_s": 1.0,
        "processes": 1,
    }
    return Vitals(host=host, **(given | fields))
