"""A whole fabric with agents: how soon a task begins, how soon the hub knows of an agent that died or stands still, and what
`tandem status` takes.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.alone import until
from benchmarks.contest import alternate
from benchmarks.disk import commit_ms
from benchmarks.result import Figure, Result, Target
from common.api import observability_hub, resource_manager, tasks
from common.api.observability_hub import HEALTH_CHANGED, HealthChanged
from common.client.following import Event
from common.client.sync import Client
from tests.lab.fabric import Fabric, running

TASKS: Final = 200
LOOKS: Final = 5
HOST: Final = "pc2"
STAMPING: Final = "stamping"
WORSE: Final = ("degraded", "unhealthy", "unreachable")

BEGUN: Final = Target("p50 from a task's submission until its agent's verb begins", "at most", 5, "ms")
KILLED: Final = Target("kill -9 of an agent until the hub's verdict", "at most", 1, "s")
STOPPED: Final = Target("SIGSTOP of an agent until the hub's verdict", "at most", 2, "s")
SCREEN: Final = Target("`tandem status` on a whole fabric", "at most", 300, "ms")


def run(rounds: int) -> Result:
    with _fabric(rounds) as fabric, fabric.client() as client:
        numbers = {"killed": iter(range(rounds)), "stopped": iter(range(rounds))}
        found = alternate(
            rounds,
            {
                "bare": lambda: {"ms": commit_ms()},
                "begun": lambda: _begun(client),
                "killed": lambda: _verdict(fabric, client, f"killed{next(numbers['killed'])}", signal.SIGKILL),
                "stopped": lambda: _verdict(fabric, client, f"stopped{next(numbers['stopped'])}", signal.SIGSTOP),
                "screen": lambda: _screen(fabric),
            },
        )
    begun = Figure.of("task begun after, p50", "ms", [each["p50"] for each in found["begun"]])
    killed = Figure.of("kill -9 to verdict", "s", [each["s"] for each in found["killed"]])
    stopped = Figure.of("SIGSTOP to verdict", "s", [each["s"] for each in found["stopped"]])
    screen = Figure.of("tandem status", "ms", [each["ms"] for each in found["screen"]])
    figures = [
        begun,
        Figure.of("task begun after, p99", "ms", [each["p99"] for each in found["begun"]]),
        Figure.of("bare SQLite, FULL, one row a commit, p50", "ms", [each["ms"] for each in found["bare"]]),
        killed,
        stopped,
        screen,
    ]
    verdicts = [
        BEGUN.judge(begun.median),
        KILLED.judge(killed.most),
        STOPPED.judge(stopped.most),
        SCREEN.judge(screen.median),
    ]
    notes = [
        f"five services, two supervisors and {2 * rounds + 1} agents; a task begins after two durable commits",
        "verdicts are judged by the slowest round",
    ]
    return Result("A whole fabric with agents", figures, verdicts, notes)


@contextmanager
def _fabric(rounds: int) -> Iterator[Fabric]:
    """Up, with an agent for each round's kill and one for its stop: none has a past that its verdict would wait for."""
    victims = [
        _agent(f"{kind}{number}", "tests.lab.echo_agent") for kind in ("killed", "stopped") for number in range(rounds)
    ]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        agents = {HOST: [_agent(STAMPING, "benchmarks.stamping"), *victims]}
        with running(Path(folder), agents) as fabric, fabric.client() as client:
            until(lambda: _all_healthy(client, len(agents[HOST])), "all agents are healthy")
            yield fabric


def _agent(name: str, module: str) -> dict[str, Any]:
    return {"name": name, "command": ["{python}", "-m", module], "restart": {"when": "always"}}


def _all_healthy(client: Client, agents: int) -> bool:
    health = client.call(observability_hub.SERVICE, observability_hub.GET_HEALTH, observability_hub.GetHealth())
    return sum(agent.verdict == "healthy" for agent in health.agents) >= agents


def _begun(client: Client) -> dict[str, float]:
    times: list[float] = []
    for _ in range(TASKS):
        submitted = time.monotonic()
        task = client.call(
            resource_manager.SERVICE, tasks.SUBMIT_TASK, tasks.SubmitTask(capability="stamp"), idempotent=False
        )
        asked = tasks.GetTask(task_id=task.task_id, wait_s=20.0)
        status = client.call(resource_manager.SERVICE, tasks.GET_TASK, asked)
        times.append(status.result["began"] - submitted)
    cuts = statistics.quantiles(times, n=100)
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}


def _verdict(fabric: Fabric, client: Client, agent: str, number: int) -> dict[str, float]:
    """From the signal until the event that tells of it has arrived here."""
    pid = fabric.processes(HOST)[agent]["pid"]
    with _first_worse(client, agent) as heard:
        began = time.monotonic()
        os.kill(pid, number)
        seconds = heard() - began
    if number == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)
    return {"s": seconds}


@contextmanager
def _first_worse(client: Client, agent: str) -> Iterator[Callable[[], float]]:
    """When the first verdict for the worse on `agent` arrived; the subscription stands before anything is done to it."""
    at: list[float] = []
    since = {HEALTH_CHANGED.name: _cursor(client)}

    def listen() -> None:
        for notice in client.events(observability_hub.SERVICE, [HEALTH_CHANGED.name], since, timeout_s=30.0):
            if isinstance(notice, Event):
                event = msgspec.json.decode(notice.body, type=HealthChanged)
                if event.name == agent and event.verdict in WORSE:
                    at.append(time.monotonic())
                    return

    ears = threading.Thread(target=listen, daemon=True)
    ears.start()
    time.sleep(0.2)

    def heard() -> float:
        ears.join(30.0)
        return at[0]

    yield heard


def _cursor(client: Client) -> Any:
    asked = observability_hub.GetHealth()
    return client.call(observability_hub.SERVICE, observability_hub.GET_HEALTH, asked).as_of


def _screen(fabric: Fabric) -> dict[str, float]:
    times: list[float] = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        ended = fabric.tandem("status")
        times.append(time.perf_counter() - began)
        if ended.returncode > 1:  # 1: something on it is not well, such as an agent that was just killed
            raise RuntimeError(f"tandem status ended with {ended.returncode}: {ended.stderr or ended.stdout}")
    return {"ms": statistics.median(times) * 1e3}
