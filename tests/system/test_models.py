"""Engines of managed models outlive no supervisor, however it ends."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from common.config.schema import Ports
from common.supervisor.launching import choose_ports
from tests.common.supervisor.lives import ended, wait_until
from tests.common.supervisor.models.lab import ROOT
from tests.common.supervisor.startup_files import Program, write_startup
from tests.lab.fabric import held_bytes

ENGINE: dict[str, Any] = {
    "name": "a",
    "engine": "llama-server",
    "vram": "5GiB",
    "command": ["{python}", "-m", "tests.lab.engines.llama_server", "-m", "a.gguf", "-a", "a", "--port", "{port}"],
    "cwd": str(ROOT),
    "env": {"PYTHONPATH": str(ROOT), "STAND_IN_VRAM": "4GiB"},
}

BARE: dict[str, Any] = {
    "name": "bare",
    "engine": "openai",
    "vram": 0,
    "needs": {"ram": "64MiB"},
    "command": ["{python}", "-m", "tests.lab.engines.openai_server", "--model", "bare", "--port", "{port}"],
    "cwd": str(ROOT),
    "env": {"PYTHONPATH": str(ROOT)},
    "health": {"how": "tcp"},
}


def asked(port: int, action: str, **fields: Any) -> dict[str, Any]:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 90_000)
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send(json.dumps({"action": action, **fields}).encode())
        answer: dict[str, Any] = json.loads(socket.recv())
        return answer


def test_a_killed_supervisor_leaves_no_engine_and_its_next_life_loads_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = choose_ports(Ports())
    cards = [{"name": "simulated", "memory": "12GiB"}]
    file = write_startup(tmp_path / "h.json", "mainpc", ports, models=[ENGINE, BARE], simulated_cards=cards)
    home = tmp_path / "var"
    monkeypatch.setenv("TANDEM_SIMULATE_CARDS", "1")
    for end in (signal.SIGKILL, signal.SIGTERM):
        with Program(tmp_path, ["-m", "main_pc", "--config", str(file)], home) as program:
            program.until_says("ready in")
            for name in ("a", "bare"):
                ready = asked(ports.port, "use_model", model=name, wait_s=60)
                assert ready["status"] == "success", ready
            models = asked(ports.port, "list_models")["models"]
            assert [(shown["state"], shown["users"]) for shown in models] == [("ready", 1)] * 2
            leases = asked(ports.port, "list_leases")["leases"]
            assert sorted(lease["model"] for lease in leases if not lease["shares"]) == ["a", "bare"]
            program.stop(end)
            for shown in models:
                wait_until(partial(ended, shown["pid"]))
            wait_until(lambda: all(used == 0 for used, _ in held_bytes(home).values()))
