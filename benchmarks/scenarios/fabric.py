"""A whole fabric as `make start` runs it, default startup files and all: how soon it is ready, how soon a killed service serves
again, what a lease costs from end to end, and what the idle services hold.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import zmq

from benchmarks.alone import busy_s
from benchmarks.contest import alternate
from benchmarks.result import Figure, Result, Target
from common.api import catalog, leases
from common.client.directory import Directory
from common.client.opening import open_client
from common.client.settings import ClientSettings
from common.client.sync import Client
from common.errors import TandemError

ROOT: Final = Path(__file__).resolve().parents[2]
LEASES: Final = 300
PATIENCE_S: Final = 60.0
SETTLE_S: Final = 2.0
WATCH_S: Final = 10.0
"""Processor time is counted in hundredths of a second."""
SUPERVISOR: Final = "supervisor of mainpc"
SERVICES: Final = {
    "core_orchestrator": ("mainpc", "CoreOrchestrator"),
    "resource_manager": ("pc2", "ResourceManager"),
    "observability_hub": ("pc2", "ObservabilityHub"),
    "error_bus": ("pc2", "ErrorBus"),
    "security_gateway": ("pc2", "SecurityGateway"),
}

IDLE: Final = (*SERVICES, SUPERVISOR)

START: Final = Target("`make start` (default files, after install) to all ready", "at most", 5.0, "s")
BACK: Final = Target("a killed service serves again", "at most", 1.5, "s")
LEASE: Final = Target("p50 of a lease granted end to end, committed", "at most", 2.0, "ms")
MEMORY: Final = Target("resident memory of an idle service", "at most", 45.0, "MB")
PROCESSOR: Final = Target("processor time of an idle service", "at most", 1.0, "% of a core")


def run(rounds: int) -> Result:
    found = alternate(rounds, {"fabric": _round})["fabric"]
    figures = {name: Figure.of(name, unit, [each[name] for each in found]) for name, unit in _UNITS.items()}
    verdicts = [
        START.judge(figures["start to all ready"].median),
        BACK.judge(max(figures[f"{name} back"].median for name in SERVICES)),
        LEASE.judge(figures["lease granted, p50"].median),
        MEMORY.judge(max(figures[f"{name} resident"].median for name in IDLE)),
        PROCESSOR.judge(max(figures[f"{name} busy"].median for name in IDLE)),
    ]
    notes = [
        "services and supervisors are not pinned to cores; a lease is asked of ResourceManager and admitted by a supervisor",
        "idle means before anybody has scraped /metrics; the first scrape loads prometheus-client, which takes 3 MB",
    ]
    return Result("A whole fabric on one machine", list(figures.values()), verdicts, notes)


_UNITS: Final = {
    "start to all ready": "s",
    "lease granted, p50": "ms",
    "lease granted, p99": "ms",
    **{f"{name} back": "s" for name in SERVICES},
    **{f"{name} resident": "MB" for name in IDLE},
    **{f"{name} busy": "% of a core" for name in IDLE},
}


def _round() -> dict[str, float]:
    with _fabric() as (ready_s, client):
        return {"start to all ready": ready_s, **_leases(client), **_idle(client), **_killed(client)}


@contextmanager
def _fabric() -> Iterator[tuple[float, Client]]:
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as home:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environ |= {"TANDEM_HOME": home, "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        door = subprocess.Popen([sys.executable, "-m", "tandem", "start"], env=environ, cwd=ROOT, **quiet)  # type: ignore[call-overload]
        try:
            with open_client(ClientSettings(timeout_s=5.0), Directory()) as client:
                _until(lambda: _all_ready(client))
                yield time.perf_counter() - began, client
        finally:
            door.send_signal(signal.SIGTERM)
            door.wait(timeout=30)


def _until(holds: Callable[[], bool]) -> None:
    give_up_at = time.perf_counter() + PATIENCE_S
    while not holds():
        if time.perf_counter() > give_up_at:
            raise TimeoutError(f"not ready within {PATIENCE_S} s")
        time.sleep(0.01)


def _process(client: Client, name: str) -> dict[str, Any]:
    answer = client.call(f"Supervisor/{SERVICES[name][0]}", "list_processes", timeout_s=1.0)
    found: dict[str, Any] = next(process for process in answer["processes"] if process["name"] == name)
    return found


def _all_ready(client: Client) -> bool:
    try:
        return all(_process(client, name)["phase"] == "ready" for name in SERVICES)
    except TandemError:
        return False


def _leases(client: Client) -> dict[str, float]:
    _until(lambda: bool(client.call("ResourceManager", "get_gpus")["cards"]))
    times: list[float] = []
    for number in range(LEASES):
        asked = leases.AcquireLease(model=f"m{number}", bytes=2**20)
        began = time.perf_counter()
        held = client.call("ResourceManager", leases.ACQUIRE_LEASE, asked)
        times.append(time.perf_counter() - began)
        back = leases.ReleaseLease(lease_id=held.lease_id, fencing_token=held.fencing_token)
        client.call("ResourceManager", leases.RELEASE_LEASE, back)
    cuts = statistics.quantiles(times, n=100)
    return {"lease granted, p50": cuts[49] * 1e3, "lease granted, p99": cuts[98] * 1e3}


def _idle(client: Client) -> dict[str, float]:
    processes = {name: psutil.Process(_process(client, name)["pid"]) for name in SERVICES}
    processes[SUPERVISOR] = psutil.Process(client.call("Supervisor/mainpc", "info")["pid"])
    time.sleep(SETTLE_S)
    before = {name: busy_s(process) for name, process in processes.items()}
    time.sleep(WATCH_S)
    found: dict[str, float] = {}
    for name, process in processes.items():
        busy = round(busy_s(process) - before[name], 2)
        found |= {f"{name} resident": process.memory_info().rss / 1e6, f"{name} busy": 100 * busy / WATCH_S}
    return found


def _killed(client: Client) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (_, service) in SERVICES.items():
        os.kill(_process(client, name)["pid"], signal.SIGKILL)
        began = time.perf_counter()
        _until(lambda service=service: _answers(service))  # type: ignore[misc]
        found[f"{name} back"] = time.perf_counter() - began
        _until(lambda: _all_ready(client))
    return found


def _answers(service: str) -> bool:
    """Whether it says that it is ready, to a bare socket: a client would wait for its breaker to close."""
    port = next(spec.port for spec in catalog.SERVICES if spec.name == service)
    socket: zmq.Socket[bytes]
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send(b"ping")
        return bool(socket.poll(200)) and json.loads(socket.recv())["ready"] is True
