"""Startup files for whole hosts run as programs, and those programs; nothing outlives a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import zmq

from common.config.schema import Ports
from tests.common.supervisor.lives import wait_until

ROOT = Path(__file__).resolve().parents[3]


def entry(name: str, script: str = "exec sleep 1000", **fields: Any) -> dict[str, Any]:
    """An agent that runs a shell script and counts as ready once launched, unless `fields` say otherwise."""
    return {
        "name": name,
        "command": ["sh", "-c", script],
        "health": {"how": "none"},
        "restart": {"delay_s": 0.02, "attempts": 2, "max_delay_s": 0.1},
        "stop": {"term_s": 2},
    } | fields


def write_startup(file: Path, host: str, ports: Ports, *agents: dict[str, Any], **fields: Any) -> Path:
    """A startup file; JSON is YAML as well."""
    supervisor = {"port": ports.port, "events_port": ports.events_port, "health_check_port": ports.health_check_port}
    told = {"version": 1, "host": host, "supervisor": supervisor, "agents": list(agents)} | fields
    file.write_text(json.dumps(told, indent=1))
    return file


class Program:
    """A door in the foreground, in a session of its own, with what it says gathered in files.

    It hears HUP even where whoever runs the tests does not, as under nohup.
    """

    def __init__(self, folder: Path, command: Sequence[str], home: Path | None = None) -> None:
        self.out, self.err = folder / f"out-{id(self)}", folder / f"err-{id(self)}"
        environ = {**os.environ, "TANDEM_HOME": str(home or folder / "var"), "PYTHONPATH": str(ROOT)}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                ["env", "--default-signal=HUP", sys.executable, *command],
                stdout=out,
                stderr=err,
                env=environ,
                cwd=folder,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.out.read_text()

    @property
    def complained(self) -> str:
        return self.err.read_text()

    def until_says(self, text: str) -> None:
        wait_until(lambda: text in self.said or self.process.poll() is not None)
        assert text in self.said, f"ended with {self.process.poll()}: {self.said}\n{self.complained}"

    def ends(self) -> int:
        return self.process.wait(60)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ends()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()


def processes(port: int) -> dict[str, Any]:
    """The processes of the supervisor at `port` by name, asked over a bare REQ; none while it does not answer."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 5_000)
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send(b'{"action": "list_processes"}')
        try:
            return {process["name"]: process for process in json.loads(socket.recv())["processes"]}
        except zmq.Again:
            return {}
