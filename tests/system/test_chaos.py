"""Services and supervisors are killed under load at random, seeded moments: nothing acknowledged is lost, every wait ends.

`make test` runs a dozen kills; `TANDEM_KILLS=100 TANDEM_SEED=7` runs as many from that seed (`make soak`).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import TandemError
from tests.lab.fabric import Fabric, running, until
from tests.system.conftest import ECHO

KILLS = int(os.environ.get("TANDEM_KILLS", "12"))
SEED = int(os.environ.get("TANDEM_SEED", "1"))
MIB = 2**20
PATIENCE_S = 60.0

VICTIMS: dict[str, Callable[[Fabric], int]] = {
    "core_orchestrator": lambda fabric: int(fabric.processes("mainpc")["core_orchestrator"]["pid"]),
    "resource_manager": lambda fabric: int(fabric.processes("pc2")["resource_manager"]["pid"]),
    "supervisor of mainpc": lambda fabric: fabric.supervisor_pid("mainpc"),
    "supervisor of pc2": lambda fabric: fabric.supervisor_pid("pc2"),
}


class Load(threading.Thread):
    """One caller: it repeats each order with the same words until it is acknowledged, and keeps what was acknowledged."""

    def __init__(self, fabric: Fabric, name: str, order: Callable[[int], tuple[str, str, dict[str, Any]]]) -> None:
        super().__init__(daemon=True, name=name)
        self._fabric = fabric
        self._order = order
        self._over = threading.Event()
        self.acknowledged: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.longest_s = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._fabric.client(timeout_s=5.0) as client:
                number = 0
                while not self._over.is_set():
                    number += 1
                    self._until_acknowledged(client, *self._order(number))
                    self._over.wait(0.02)
        except BaseException as error:
            self.failure = error

    def _until_acknowledged(self, client: Any, target: str, verb: str, request: dict[str, Any]) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            began = time.monotonic()
            try:
                answer = client.call(target, verb, request, idempotent=True)
            except TandemError as error:
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                if time.monotonic() > give_up_at:
                    raise AssertionError(f"{self.name}: not acknowledged in {PATIENCE_S} s: {error}") from error
                time.sleep(0.05)
            else:
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.acknowledged.append((request, answer))
                return

    def stop(self) -> None:
        self._over.set()
        self.join(timeout=PATIENCE_S + 10)
        assert not self.is_alive(), f"{self.name} waits for ever"
        if self.failure is not None:
            raise self.failure


def a_request(number: int) -> tuple[str, str, dict[str, Any]]:
    words = {"capability": "echo", "data": f"words {number}", "idempotency_key": f"r{number}", "wait_s": 2.0}
    return "CoreOrchestrator", "submit_request", words


def a_registration(number: int) -> tuple[str, str, dict[str, Any]]:
    agent = {"agent_name": f"old-{number}", "host": "127.0.0.1", "port": 1 + number % 60_000, "capabilities": ["old"]}
    return "CoreOrchestrator", "register_agent", agent


def a_lease(number: int) -> tuple[str, str, dict[str, Any]]:
    owner = {"agent_name": "load", "host": "mainpc" if number % 2 else "pc2", "pid": os.getpid()}
    host = owner["host"]
    asked = {
        "model": f"m{number}",
        "bytes": MIB,
        "idempotency_key": f"l{number}",
        "owner": owner,
        "host": host,
        "wait_s": 2.0,
    }
    return "ResourceManager", "acquire_lease", asked


AGENTS = {"mainpc": [ECHO], "pc2": [ECHO | {"name": "echo2", "depends_on": ["mainpc/core_orchestrator"]}]}
ORDERS = {"requests": a_request, "registrations": a_registration, "leases": a_lease}


@pytest.mark.timeout(600 + 120 * KILLS)
def test_nothing_acknowledged_is_lost_when_services_and_supervisors_are_killed(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with running(tmp_path, AGENTS) as fabric:
        loads = [Load(fabric, name, order) for name, order in ORDERS.items()]
        for load in loads:
            load.start()
        for kill in range(KILLS):
            _kill_one(fabric, rng, f"seed {SEED}, kill {kill}")
        for load in loads:
            load.stop()
        until(fabric.is_ready, 60, "a ready fabric after the last kill")
        requests, registrations, leases = (load.acknowledged for load in loads)
        assert all(len(load.acknowledged) > KILLS for load in loads)
        _registrations_are_there(fabric, registrations)
        _requests_are_answered(fabric, requests)
        _leases_are_held_once(fabric, leases)
        assert all(load.longest_s < PATIENCE_S for load in loads)


def _kill_one(fabric: Fabric, rng: random.Random, which: str) -> None:
    until(fabric.is_ready, 60, f"a ready fabric before {which}")
    time.sleep(rng.random() * 0.5)
    name = rng.choice(sorted(VICTIMS))
    agents = {host: fabric.processes(host) for host in ("mainpc", "pc2")}
    victim = VICTIMS[name](fabric)
    assert victim > 1, f"{name} has no process ({which})"
    os.kill(victim, signal.SIGKILL)
    until(lambda: not _lives(victim), 10, f"{name} to be gone ({which})")
    until(lambda: _successor(name, fabric) not in (0, victim), 60, f"a successor of {name} ({which})")
    until(fabric.is_ready, 60, f"{name} to be back ({which})")
    if not name.startswith("supervisor"):
        for host, agent in (("mainpc", "echo"), ("pc2", "echo2")):
            assert fabric.processes(host)[agent]["pid"] == agents[host][agent]["pid"], f"{agent} restarted ({which})"


def _successor(name: str, fabric: Fabric) -> int:
    try:
        return VICTIMS[name](fabric)
    except (AssertionError, KeyError):
        return 0


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _registrations_are_there(fabric: Fabric, acknowledged: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    listed = fabric.ask("core", {"action": "list_agents"})
    assert listed is not None
    names = {agent["agent_name"] for agent in listed["agents"]}
    assert {request["agent_name"] for request, _ in acknowledged} <= names


def _requests_are_answered(fabric: Fabric, acknowledged: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for request, answer in acknowledged:
        asked = {"action": "get_request", "request_id": answer["request_id"]}

        def done(asked: dict[str, Any] = asked) -> dict[str, Any] | None:
            status = fabric.ask("core", asked)
            return status if status is not None and status.get("state") not in ("queued", "running") else None

        status = until(done, 30, f"the end of {request['data']}")
        assert status is not None
        assert status["state"] == "done", status
        assert status["result"]["data"] == request["data"]


def _leases_are_held_once(fabric: Fabric, acknowledged: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    def complete() -> list[dict[str, Any]] | None:
        listed = fabric.ask("rm", {"action": "list_leases"})
        return listed["leases"] if listed is not None and not listed.get("missing") else None

    held = until(complete, 30, "a complete list of leases")
    assert held is not None
    tokens = {lease["lease_id"]: lease["fencing_token"] for lease in held}
    assert len(tokens) == len(held)
    for request, answer in acknowledged:
        assert tokens.get(answer["lease_id"]) == answer["fencing_token"], f"lease {request['model']} is lost"
    models = [lease["model"] for lease in held]
    assert len(set(models)) == len(models), "a model was leased twice"
