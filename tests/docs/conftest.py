"""A CoreOrchestrator of the tests' own, as a process, and ways to ask it that know nothing of Tandem."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zmq

from tests.docs.documents import ROOT
from tests.lab.fabric import free_ports
from tests.lab.nowhere import only

PATIENCE_MS = 60_000
MARK = b"\xffdocs"


class Fabric(NamedTuple):
    """Where the registry is, and the environment of programs that belong to it."""

    port: int
    events_port: int
    health_port: int
    environment: dict[str, str]
    context: zmq.Context[zmq.Socket[bytes]]

    def ask(self, message: dict[str, Any], port: int = 0) -> dict[str, Any]:
        """One plain question and its answer; whoever does not listen yet is waited for."""
        answer: dict[str, Any] = json.loads(self.say(json.dumps(message).encode(), port))
        return answer

    def say(self, message: bytes, port: int = 0) -> bytes:
        """The same, with any bytes."""
        with self._socket(zmq.REQ, port or self.port) as asker:
            asker.send(message)
            return asker.recv()

    def _socket(self, kind: int, port: int) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        if kind == zmq.SUB:
            for topic in (b"agents.changed", MARK):
                made.setsockopt(zmq.SUBSCRIBE, topic)
        made.connect(f"tcp://127.0.0.1:{port}")
        return made

    @contextmanager
    def registrations(self) -> Iterator[Iterator[dict[str, Any]]]:
        """Every agent that registers from now on; live before this returns."""
        with self._socket(zmq.SUB, self.events_port) as events:
            while events.recv_multipart() != [MARK]:
                pass
            yield _registered(events)

    @contextmanager
    def agent(self, command: Sequence[str], **told: str) -> Iterator[dict[str, Any]]:
        """The program as a process, once it has registered; ended and taken off the registry afterwards."""
        with ExitStack() as held:
            registered = held.enter_context(self.registrations())
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment | told)
            held.callback(process.wait, timeout=30)
            held.callback(process.terminate)
            agent = next(registered)
            held.callback(self.ask, {"action": "deregister_agent", "agent_name": agent["agent_name"]})
            yield agent


def _registered(events: zmq.Socket[bytes]) -> Iterator[dict[str, Any]]:
    last = time.monotonic() + PATIENCE_MS / 1000
    while True:
        assert time.monotonic() < last, "nobody registered"
        topic, *_, body = events.recv_multipart()
        event = json.loads(body) if topic == b"agents.changed" else {}
        if event.get("change") == "registered":
            yield event["agent"]


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """A CoreOrchestrator alone: the rest of the fabric is away, and it serves all the same."""
    port, events_port, health_port = free_ports(3)
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {
        "TANDEM_HOME": str(home),
        "TANDEM_SERVICES": only(f"CoreOrchestrator={port}:{events_port}@127.0.0.1"),
    }
    ports = {"TANDEM_PORT": port, "TANDEM_EVENTS_PORT": events_port, "TANDEM_HEALTH_PORT": health_port}
    own = {"TANDEM_HOST": "mainpc"} | {name: str(number) for name, number in ports.items()}
    command = [sys.executable, "-m", "main_pc", "core_orchestrator"]
    with (home / "registry.log").open("wb") as log, zmq.Context() as context:
        process = subprocess.Popen(command, cwd=ROOT, env=environment | own, stdout=log, stderr=log)
        try:
            found = Fabric(port, events_port, health_port, environment, context)
            found.ask({"action": "ping"})
            yield found
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples" / "protocol"
