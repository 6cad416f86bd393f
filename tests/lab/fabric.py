"""A whole fabric for one test: both hosts under `tandem start`, on ports of its own, in a home of its own.

Nothing is simulated but the cards. Everything is found through the environment that `Fabric.environ` holds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import zmq

from common.client.directory import Directory
from common.client.opening import open_client
from common.client.settings import ClientSettings
from common.client.sync import Client
from common.security import keyfiles
from common.security.keyfiles import OPERATOR_FILE, SigningKeys
from common.security.keyring import local_binding
from common.security.tokens import Minter

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {
    "core": ("core_orchestrator", "CoreOrchestrator", "mainpc"),
    "rm": ("resource_manager", "ResourceManager", "pc2"),
    "hub": ("observability_hub", "ObservabilityHub", "pc2"),
    "errors": ("error_bus", "ErrorBus", "pc2"),
    "security": ("security_gateway", "SecurityGateway", "pc2"),
}
"""What tests call a service: its process, its public name and its host."""
HOSTS = {"mainpc": "main_pc", "pc2": "pc2"}
NAMES = [f"{name}{port}" for name in (*SERVICES, *HOSTS) for port in ("", "_events", "_health")]

PATIENCE_S = 60.0
"""The least that anything may take here: a machine that is slow or shared stops whoever it likes for seconds."""

T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, none of those that the system gives away: an outgoing connection may take one meanwhile."""
    found: set[int] = set()
    chance = random.SystemRandom()
    while len(found) < count:
        port = chance.randrange(10_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def until(probe: Callable[[], T], within_s: float, what: str) -> T:
    """The first true answer of `probe`; AssertionError after `within_s`, or PATIENCE_S where that is longer."""
    within_s = max(within_s, PATIENCE_S)
    deadline = time.monotonic() + within_s
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s} s"
        time.sleep(0.02)


@dataclass
class Fabric:
    """A running fabric; `agents` and `models` are startup entries by host, as JSON (which is YAML)."""

    folder: Path
    agents: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    models: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(NAMES, free_ports(len(NAMES)), strict=True)))
    extra: Mapping[str, str] = field(default_factory=dict)
    door: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """TANDEM_HOME."""
        return self.folder / "home"

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a program that belongs to this fabric."""
        port = self.ports
        places = {public: name for name, (_, public, _) in SERVICES.items()}
        places |= {f"Supervisor/{host}": host for host in HOSTS}
        services = ",".join(
            f"{public}={port[name]}:{port[f'{name}_events']}@127.0.0.1" for public, name in places.items()
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return kept | {
            "TANDEM_SERVICES": services,
            "TANDEM_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            **self.extra,
        }

    def client(self, timeout_s: float = 30.0) -> Client:
        """A client of this fabric."""
        directory = Directory.parse(self.environ["TANDEM_SERVICES"])
        return open_client(ClientSettings(timeout_s=timeout_s), directory)

    def tandem(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the `tandem` command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "tandem", *arguments],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the `tandem` command."""
        return subprocess.Popen(
            [sys.executable, "-m", "tandem", *arguments], env=self.environ, cwd=self.folder, text=True, **options
        )

    def startup_file(self, host: str) -> Path:
        """Write a host's startup file."""
        port = self.ports
        services = {
            process: {
                "port": port[name],
                "events_port": port[f"{name}_events"],
                "health_check_port": port[f"{name}_health"],
            }
            for name, (process, _, _) in SERVICES.items()
        }
        own = {process for process, _, where in SERVICES.values() if where == host}
        peer = "pc2" if host == "mainpc" else "mainpc"
        document = {
            "version": 1,
            "host": host,
            "supervisor": {
                "port": port[host],
                "events_port": port[f"{host}_events"],
                "health_check_port": port[f"{host}_health"],
            },
            "peers": {
                peer: {
                    "address": "127.0.0.1",
                    "supervisor_port": port[peer],
                    "events_port": port[f"{peer}_events"],
                    "services": {process: ports for process, ports in services.items() if process not in own},
                }
            },
            "simulated_cards": [{"name": "simulated", "memory": "24GiB" if host == "mainpc" else "12GiB"}],
            "services": [
                {
                    "name": process,
                    "command": ["{python}", "-m", HOSTS[host], process],
                    **services[process],
                    "restart": {"when": "always", "attempts": 1000, "max_delay_s": "1s"},
                }
                for process in sorted(own)
            ],
            "agents": list(self.agents.get(host, ())),
            "models": list(self.models.get(host, ())),
        }
        file = self.folder / f"startup_{host}.yaml"
        file.write_text(json.dumps(document, indent=1))
        return file

    def start(self, within_s: float = 120.0) -> None:
        """Start both hosts and wait until everything is ready."""
        files = [str(self.startup_file("mainpc")), str(self.startup_file("pc2"))]
        with (self.folder / "door.log").open("ab") as log:
            self.door = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "tandem", "start", *files],
                env=self.environ,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self.is_ready, within_s, f"a ready fabric (see {self.folder}/door.log)")

    def is_ready(self) -> bool:
        """Whether every process of both hosts is ready, and ResourceManager has seen the cards of both."""
        assert self.door is not None
        assert self.door.poll() is None, (self.folder / "door.log").read_text()
        processes = [self.processes(host) for host in ("mainpc", "pc2")]
        ready = all(found and all(p["phase"] == "ready" for p in found.values()) for found in processes)
        return ready and len((self.ask("rm", {"action": "get_gpus"}, timeout_ms=5_000) or {}).get("cards", [])) == 2

    def processes(self, host: str) -> dict[str, dict[str, Any]]:
        """A host's processes by name; empty while its supervisor does not answer."""
        answer = self.ask(host, {"action": "list_processes"}, timeout_ms=5_000)
        return {process["name"]: process for process in (answer or {}).get("processes", [])}

    def supervisor_pid(self, host: str) -> int:
        """The pid of a host's supervisor."""
        answer = self.ask(host, {"action": "info"})
        assert answer is not None
        return int(answer["pid"])

    def ask(self, port: str, request: dict[str, Any] | bytes, timeout_ms: int = 60_000) -> dict[str, Any] | None:
        """Ask a port by a bare REQ socket, as any ZeroMQ client would; None when no answer came in time."""
        socket = zmq.Context.instance().socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
        socket.connect(f"tcp://127.0.0.1:{self.ports[port]}")
        try:
            socket.send(request if isinstance(request, bytes) else json.dumps(request).encode())
            answer: dict[str, Any] = json.loads(socket.recv())
            return answer
        except zmq.Again:
            return None
        finally:
            socket.close(0)

    def token(self, host: str, scope: str = "control", ttl_s: float = 60.0) -> str:
        """A token of the host's operator for a plain caller on its loopback, as the `tandem` command makes them."""
        keys = keyfiles.read(keyfiles.keys_folder(self.home, host) / OPERATOR_FILE, SigningKeys)
        minter = Minter(keys.name, keys.seed)
        return minter.mint(keys.name, [scope], local_binding(host), now=time.time(), ttl_s=ttl_s).token

    def used_bytes(self) -> dict[str, tuple[int, int]]:
        """Used and total bytes of every card, counted from outside: the files that living processes wrote."""
        return held_bytes(self.home)

    def stop(self) -> int:
        """Stop both hosts in order; the door's exit code."""
        assert self.door is not None
        if self.door.poll() is None:
            self.door.send_signal(signal.SIGTERM)
        try:
            return self.door.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.door.kill()
            raise


def held_bytes(home: Path) -> dict[str, tuple[int, int]]:
    """Used and total bytes of every card below a TANDEM_HOME: the files that living processes wrote."""
    found: dict[str, tuple[int, int]] = {}
    for card in sorted(home.glob("*/cards/*/card.json")):
        used = sum(_held(file) for file in (card.parent / "processes").glob("*-*"))
        found[str(card.parent.relative_to(home))] = (used, int(json.loads(card.read_text())["total_bytes"]))
    return found


def _held(file: Path) -> int:
    pid, _, started = file.name.partition("-")
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        amount = int(file.read_text())
    except (OSError, ValueError):
        return 0
    fields = stat[stat.rindex(")") + 2 :].split()
    return amount if fields[19] == started and fields[0] != "Z" else 0


@contextmanager
def running(
    folder: Path,
    agents: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    models: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Iterator[Fabric]:
    """A fabric that is up, and is stopped at the end."""
    fabric = Fabric(folder, agents or {}, models or {})
    fabric.home.mkdir(parents=True)
    try:
        fabric.start()
        yield fabric
    finally:
        if fabric.door is not None:
            fabric.stop()
