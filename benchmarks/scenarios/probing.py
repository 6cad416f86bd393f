"""ObservabilityHub with five hundred agents: how often it asks each, and what processor time that takes it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from benchmarks.alone import busy_s, started, until
from benchmarks.contest import alternate
from benchmarks.result import Figure, Result, Target
from common.api import core_orchestrator, observability_hub
from common.client.sync import Client
from tests.lab.fabric import Fabric, running

AGENTS: Final = 500
HOST: Final = "pc2"
SETTLE_S: Final = 5.0
WATCH_S: Final = 5.0

EACH: Final = Target("agents that ObservabilityHub asks each second, of 500", "at least", 500, "probes/s")
BUSY: Final = Target(
    "processor time of ObservabilityHub with 500 agents asked each second", "at most", 50, "% of a core"
)


class Answerers:
    """The agents: their ports, and how often each was asked so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ports: list[int] = self._line()

    def _line(self) -> list[int]:
        assert self._process.stdout is not None
        numbers: list[int] = json.loads(self._process.stdout.readline())
        return numbers

    def asked(self) -> list[int]:
        """How often, port by port."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._line()


def run(rounds: int) -> Result:
    with _answerers() as watched, _answerers() as pinged, _fabric(watched) as hub, _pinging(pinged) as bare:
        time.sleep(SETTLE_S)
        found = alternate(rounds, {"hub": lambda: _watch(hub, watched), "bare": lambda: _watch(bare, pinged)})
    rate = Figure.of("probes of all 500", "probes/s", [each["per_s"] for each in found["hub"]])
    busy = Figure.of("ObservabilityHub busy", "% of a core", [each["busy"] for each in found["hub"]])
    figures = [
        rate,
        Figure.of("probes of the least asked", "probes/s", [each["least"] for each in found["hub"]]),
        busy,
        Figure.of(
            "bare pyzmq pings, as many each second, busy", "% of a core", [each["busy"] for each in found["bare"]]
        ),
        Figure.of("ObservabilityHub resident", "MB", [each["resident_mb"] for each in found["hub"]]),
    ]
    note = (
        "each agent has a port and a connection of its own; one process answers for all, which counts what it was asked"
    )
    return Result("Five hundred agents probed", figures, [EACH.judge(rate.median), BUSY.judge(busy.median)], [note])


def _watch(process: psutil.Process, answerers: Answerers) -> dict[str, float]:
    before, busy_before, began = answerers.asked(), busy_s(process), time.perf_counter()
    time.sleep(WATCH_S)
    after, busy_after, took = answerers.asked(), busy_s(process), time.perf_counter() - began
    asked = [new - old for old, new in zip(before, after, strict=True)]
    return {
        "per_s": sum(asked) / took,
        "least": min(asked) / took,
        "busy": 100 * (busy_after - busy_before) / took,
        "resident_mb": process.memory_info().rss / 1e6,
    }


@contextmanager
def _answerers() -> Iterator[Answerers]:
    with started([sys.executable, "-m", "benchmarks.answerers", str(AGENTS)]) as process:
        yield Answerers(process)


@contextmanager
def _pinging(answerers: Answerers) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "benchmarks.pinging", *map(str, answerers.ports)]
    with started(command) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)


@contextmanager
def _fabric(answerers: Answerers) -> Iterator[psutil.Process]:
    """The hub of a whole fabric that has these agents, all of them found healthy."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder, running(Path(folder)) as fabric:
        with fabric.client() as client:
            for number, port in enumerate(answerers.ports):
                _register(client, f"reader{number}", port)
            until(lambda: _healthy(client) == AGENTS, f"{AGENTS} agents are healthy")
        yield _hub(fabric)


def _register(client: Client, name: str, port: int) -> None:
    agent = core_orchestrator.RegisterAgent(
        agent_name=name, host="127.0.0.1", port=port, health_check_port=port, capabilities=["read"], location=HOST
    )
    client.call(core_orchestrator.SERVICE, core_orchestrator.REGISTER_AGENT, agent)


def _healthy(client: Client) -> int:
    asked = observability_hub.GetHealth()
    health = client.call(observability_hub.SERVICE, observability_hub.GET_HEALTH, asked)
    return sum(agent.verdict == "healthy" for agent in health.agents)


def _hub(fabric: Fabric) -> psutil.Process:
    return psutil.Process(fabric.processes(HOST)["observability_hub"]["pid"])
