"""The sender with the real ErrorBus and ObservabilityHub, as processes that are killed, and a service's own errors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.api import error_bus, observability_hub
from common.client.opening import open_client
from common.client.settings import at_own_pace
from common.client.sync import Client
from common.errors import TandemError
from common.reporting.reporter import ErrorReporter
from tests.common.reporting.stand_in import ROOT
from tests.lab.nowhere import only

PATIENCE_S = 60.0


def until(holds: Callable[[], bool]) -> None:
    last = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < last, "it never held"
        time.sleep(0.05)


class Service:
    """A service of pc2 on ports of its own."""

    def __init__(self, name: str, ports: list[int], environment: dict[str, str], log: Path) -> None:
        self._command = [sys.executable, "-m", "pc2", name]
        numbers = zip(("TANDEM_PORT", "TANDEM_EVENTS_PORT", "TANDEM_HEALTH_PORT"), map(str, ports), strict=True)
        self._environment = environment | dict(numbers)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=60)
            self._process = None


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, Service]]:
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(6)]
        ports = [each.getsockname()[1] for each in free]
    places = only(f"ErrorBus={ports[0]}:{ports[1]}@127.0.0.1", f"ObservabilityHub={ports[3]}:{ports[4]}@127.0.0.1")
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    monkeypatch.setenv("TANDEM_SERVICES", places)
    environment = dict(os.environ) | {"TANDEM_HOST": "pc2"}
    bus = Service("error_bus", ports[:3], environment, tmp_path / "bus.log")
    hub = Service("observability_hub", ports[3:], environment, tmp_path / "hub.log")
    yield bus, hub
    bus.kill()
    hub.kill()


@pytest.fixture
def client(services: tuple[Service, Service]) -> Iterator[Client]:
    with open_client(at_own_pace(5.0)) as made:
        yield made


def occurrences(client: Client) -> dict[str, int]:
    """How often each type was counted; nothing while the bus is away."""
    try:
        asked = error_bus.ListErrorGroups(limit=1_000)
        found = client.call(error_bus.SERVICE, error_bus.LIST_ERROR_GROUPS, asked)
    except TandemError:
        return {}
    counts: dict[str, int] = {}
    for group in found.groups:
        counts[group.error_type] = counts.get(group.error_type, 0) + group.count
    return counts


def test_error_bus_counts_each_error_once_whatever_is_killed(services: tuple[Service, Service], client: Client) -> None:
    bus, _ = services
    reporter = ErrorReporter("reader")
    for life in range(3):
        for number in range(1_500):
            reporter.report_error(f"Kind{number % 7}", f"number {number} of life {life}")
        bus.start()
        until(lambda life=life: sum(occurrences(client).values()) > 1_500 * life)
        bus.kill()
    for _ in range(20_000):
        reporter.report_error("Storm", "the same again")
    bus.start()
    until(lambda: reporter.flush(1.0))
    counts = occurrences(client)
    reporter.close()
    assert counts.pop("Storm") == 20_000
    assert sum(counts.values()) == 4_500
    assert sorted(counts) == [f"Kind{number}" for number in range(7)]


def test_the_hub_has_each_point_once_when_it_is_back(services: tuple[Service, Service], client: Client) -> None:
    _, hub = services
    reporter = ErrorReporter("reader")
    for number in range(200):
        reporter.metric("rows", number)
    until(lambda: bool(reporter.outbox.problem))
    hub.start()
    until(lambda: reporter.flush(1.0))
    asked = observability_hub.QueryMetrics(name="rows", aggregate="count")

    def counted() -> float:
        try:
            found = client.call(observability_hub.SERVICE, observability_hub.QUERY_METRICS, asked)
        except TandemError:
            return 0.0
        return sum(value.value for series in found.series for value in series.points)

    until(lambda: counted() >= 200)
    assert counted() == 200
    reporter.close()


BROKEN = """
import sys
from common.api.catalog import RESOURCE_MANAGER
from common.api.basic import PING
from common.api.resource_manager import VERBS
from common.service.process import run_service
from common.service.shell import Shell

class Broken:
    def __init__(self, settings, directory, store):
        self.shell = Shell(settings, (), store)
        self.shell.handle(VERBS[0], self.fail)
    def fail(self, request, call):
        raise LookupError("a bug")
    async def open(self):
        await self.shell.open()
        self.shell.loop.call_soon(self.fail, None, None)
    async def close(self):
        await self.shell.close()

sys.exit(run_service(RESOURCE_MANAGER, "pc2", "broken", Broken))
"""


def test_a_service_reports_its_own_bugs(services: tuple[Service, Service], client: Client, tmp_path: Path) -> None:
    bus, _ = services
    bus.start()
    ports = {"TANDEM_PORT": "0", "TANDEM_EVENTS_PORT": "0", "TANDEM_HEALTH_PORT": "0"}
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in ports]
        ports = {name: str(each.getsockname()[1]) for name, each in zip(ports, free, strict=True)}
    environment = dict(os.environ) | ports
    with (tmp_path / "broken.log").open("wb") as log:
        broken = subprocess.Popen([sys.executable, "-c", BROKEN], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: occurrences(client).get("LookupError") == 1)
    finally:
        broken.terminate()
        broken.wait(timeout=60)
