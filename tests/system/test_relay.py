"""Two real hosts: who says `localhost` on either one reaches every service and agent of both, or is told at once why not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.fabric import ROOT, until
from tests.lab.netns import TwoHosts
from tests.lab.two_hosts import PACKAGES, SERVICES, SUPERVISORS, Answer, TwoHostFabric, two_host_fabric

PORTS = {**{name: port for name, (_, port) in SERVICES.items()}, "mainpc": 7090, "pc2": 7091}
OLD = """
import os, time, zmq
context = zmq.Context()
own = context.socket(zmq.REP)
port = own.bind_to_random_port("tcp://127.0.0.1")
said = {}
while said.get("status") != "success":
    registry = context.socket(zmq.REQ)
    registry.setsockopt(zmq.LINGER, 0)
    registry.setsockopt(zmq.RCVTIMEO, 2000)
    registry.connect("tcp://127.0.0.1:7000")
    try:
        registry.send_json({"action": "register_agent", "agent_name": os.environ["TANDEM_AGENT_NAME"],
                            "host": "localhost", "port": port, "capabilities": ["old"]})
        said = registry.recv_json()
    except zmq.Again:
        pass
    registry.close()
    time.sleep(0.1)
while True:
    asked = own.recv_json()
    own.send_json({"status": "success", "host": os.environ["TANDEM_HOST"], "asked": asked["action"]})
"""


def agents(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """On each host one that knows Tandem and one that knows ZeroMQ, JSON and `localhost`, and nothing else."""
    program = folder / "old.py"
    program.write_text(OLD)
    python = sys.executable
    return {
        name: [
            {"name": f"echo_{name}", "command": [python, "-m", "tests.lab.echo_agent"], "cwd": str(ROOT)},
            {"name": f"old_{name}", "command": [python, str(program)], "health": {"how": "none"}},
        ]
        for name in PACKAGES
    }


@pytest.fixture
def fabric(two_hosts: TwoHosts, tmp_path: Path) -> Iterator[TwoHostFabric]:
    with two_host_fabric(two_hosts, tmp_path, agents=agents(tmp_path)) as up:
        yield up


def said(fabric: TwoHostFabric, host: str, port: int, action: str, **fields: Any) -> Answer:
    answer = fabric.ask(host, port, {"action": action, **fields})
    assert answer is not None, f"{action} at {host}:{port} was not answered"
    return answer


def answers(fabric: TwoHostFabric, host: str, port: int) -> bool:
    return bool(said(fabric, host, port, "ping").get("ready"))


def found(fabric: TwoHostFabric, host: str, name: str, registry: int) -> Answer | None:
    at = said(fabric, host, registry, "get_agent_endpoint", agent_name=name)
    return at if at["status"] == "success" else None


def test_localhost_reaches_everything_of_both_hosts_and_says_at_once_when_it_cannot(fabric: TwoHostFabric) -> None:
    for host in PACKAGES:
        for name, port in PORTS.items():
            until(lambda host=host, port=port: answers(fabric, host, port), 30, f"{name} at {host}'s localhost")  # type: ignore[misc]
    every_agent_is_found_and_asked_from_either_host(fabric)
    a_host_alone_answers_for_itself(fabric)


def every_agent_is_found_and_asked_from_either_host(fabric: TwoHostFabric) -> None:
    for host in PACKAGES:
        for name in (f"{kind}_{on}" for kind in ("echo", "old") for on in PACKAGES):
            for registry in (7000, SUPERVISORS[host]):
                until(lambda h=host, n=name, r=registry: found(fabric, h, n, r), 30, f"{name} from {host}")  # type: ignore[misc]
                at = found(fabric, host, name, registry)
                assert at is not None
                assert at["host"] == "127.0.0.1"
                answer = said(fabric, host, at["port"], "echo", data="x")
                assert answer["status"] == "success", (host, name, answer)
                assert answer.get("host", at["location"]) == name.partition("_")[2]
        port = 8001 if host == "mainpc" else 8000
        until(
            lambda h=host, p=port: answers(fabric, h, p), 30, f"a ready service of the other host at {host}'s localhost"
        )  # type: ignore[misc]


def a_host_alone_answers_for_itself(fabric: TwoHostFabric) -> None:
    fabric.lab.cut()
    far = {"mainpc": "resource_manager", "pc2": "core_orchestrator"}
    for host, service in far.items():
        until(lambda h=host, s=service: said(fabric, h, PORTS[s], "ping").get("code") == "unavailable", 10, "the loss")  # type: ignore[misc]
        began = time.monotonic()
        answer = said(fabric, host, PORTS[service], "ping", _id=host)
        assert time.monotonic() - began < 20.0
        assert (answer["code"], answer["_id"], answer["details"]["host"]) == ("unavailable", host, fabric.other(host))
        assert answer["retryable"]
        at = found(fabric, host, f"old_{host}", SUPERVISORS[host])
        assert at is not None
        assert said(fabric, host, at["port"], "alone")["asked"] == "alone"
    assert said(fabric, "pc2", SUPERVISORS["pc2"], "find_agents", capability="old")["age_s"] > 0.0
    called = fabric.tandem("pc2", "call", "echo_pc2", "echo", '{"data": "alone"}')
    assert called.returncode == 0, called.stderr
    fabric.lab.heal()
    for host, service in far.items():
        until(lambda h=host, s=service: answers(fabric, h, PORTS[s]), 20, "the return")  # type: ignore[misc]
