"""A fabric on two real hosts: each supervisor in a network namespace with its own address, name, TANDEM_HOME and cards.

The startup files are the ones that ship, with the addresses and the agents put in. The hosts know nothing of each other until
`join`. Whoever asks from a host stands on its loopback and knows nothing of the other one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
import zmq

from tests.lab.fabric import ROOT, held_bytes, until
from tests.lab.netns import LabHost, TwoHosts

PACKAGES = {"mainpc": "main_pc", "pc2": "pc2"}
FILES = {"mainpc": "startup_main.yaml", "pc2": "startup_pc2.yaml"}
SUPERVISORS = {"mainpc": 7090, "pc2": 7091}
SERVICES = {
    "core_orchestrator": ("mainpc", 7000),
    "resource_manager": ("pc2", 7001),
    "observability_hub": ("pc2", 7002),
    "error_bus": ("pc2", 7003),
    "security_gateway": ("pc2", 7005),
}
Answer = dict[str, Any]


@dataclass
class TwoHostFabric:
    """Both hosts; `agents` and `models` are startup entries by host, `environ` what a host's processes get besides."""

    lab: TwoHosts
    folder: Path
    agents: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    environ: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    models: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def host(self, name: str) -> LabHost:
        """A host's place on the switch."""
        return self.lab.mainpc if name == "mainpc" else self.lab.pc2

    def other(self, name: str) -> str:
        """The other host's name."""
        return "pc2" if name == "mainpc" else "mainpc"

    def home(self, name: str) -> Path:
        """A host's TANDEM_HOME."""
        return self.folder / name / "home"

    def environ_of(self, name: str) -> dict[str, str]:
        """The environment of a program on a host."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TANDEM_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        own = {"TANDEM_HOME": str(self.home(name)), "TANDEM_SIMULATE_CARDS": "1", "PYTHONPATH": str(ROOT)}
        return kept | own | dict(self.environ.get(name, {}))

    def startup_file(self, name: str) -> Path:
        """Write a host's startup file: the one that ships, at the lab's addresses."""
        document = yaml.safe_load((ROOT / "config" / FILES[name]).read_text())
        document["listen"] = [self.host(name).address]
        document["peers"][self.other(name)]["address"] = self.host(self.other(name)).address
        document["agents"] = [*(document["agents"] or []), *self.agents.get(name, ())]
        document["models"] = [*(document.get("models") or []), *self.models.get(name, ())]
        for service in document["services"]:
            service["restart"]["attempts"] = 1000
        file = self.folder / name / FILES[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1))
        return file

    def start(self, name: str) -> None:
        """Start a host's supervisor; returns at once."""
        file = self.startup_file(name)
        self.home(name).mkdir(parents=True, exist_ok=True)
        with (self.folder / name / "supervisor.out").open("ab") as log:
            self.running[name] = self.host(name).start(
                *("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", PACKAGES[name]),
                *("--config", str(file), "--keep-going", "--json"),
                env=self.environ_of(name),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, name: str) -> int:
        """Stop a host's supervisor in order; its exit code."""
        process = self.running.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    def join(self, inviter: str = "mainpc") -> None:
        """Let the other host in: the two commands that a person types."""
        joiner = self.other(inviter)
        bundle = self.folder / f"invitation-{joiner}"
        invited = self.tandem(inviter, "invite", joiner, "--out", str(bundle))
        assert invited.returncode == 0, invited.stderr
        joined = self.tandem(joiner, "join", str(bundle))
        assert joined.returncode == 0, joined.stderr

    def ask(self, name: str, port: int, request: Mapping[str, Any] | bytes, timeout_ms: int = 60_000) -> Answer | None:
        """Ask a port on a host's own loopback, as any ZeroMQ client there would; None when no answer came in time."""

        def asked() -> Answer | None:
            with zmq.Context() as context, context.socket(zmq.REQ) as socket:
                socket.setsockopt(zmq.LINGER, 0)
                socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
                socket.connect(f"tcp://127.0.0.1:{port}")
                socket.send(request if isinstance(request, bytes) else json.dumps(request).encode())
                try:
                    answer: Answer = json.loads(socket.recv())
                except zmq.Again:
                    return None
                return answer

        return self.host(name).on_thread(asked, timeout_ms / 1000 + 10)

    def tandem(self, name: str, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the `tandem` command on a host to its end."""
        return subprocess.run(
            self.host(name).command(sys.executable, "-m", "tandem", *arguments),
            env=self.environ_of(name),
            cwd=self.folder / name,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def popen(self, name: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the `tandem` command on a host."""
        return self.host(name).start(
            *(sys.executable, "-m", "tandem", *arguments),
            env=self.environ_of(name),
            cwd=self.folder / name,
            **options,
        )

    def operator_secret(self) -> str:
        """What SecurityGateway's operator gets tokens with, as its first start wrote it down."""
        file = self.home("pc2") / "pc2" / "security" / "operator.json"
        return str(json.loads(file.read_text())["secret"])

    def processes(self, name: str) -> dict[str, Answer]:
        """A host's processes by name; empty while its supervisor does not answer."""
        answer = self.ask(name, SUPERVISORS[name], {"action": "list_processes"}, timeout_ms=5_000)
        return {process["name"]: process for process in (answer or {}).get("processes", [])}

    def is_ready(self, name: str) -> bool:
        """Whether every process of a host is ready."""
        process = self.running[name]
        assert process.poll() is None, (self.folder / name / "supervisor.out").read_text()[-4000:]
        found = self.processes(name)
        return bool(found) and all(one["phase"] == "ready" for one in found.values())

    def is_linked(self) -> bool:
        """Whether each host has the other's link up, and reaches the other's services at its own loopback."""
        return all(self._link_up(name) for name in PACKAGES) and all(
            self._answers(self.other(host), port) for host, port in SERVICES.values()
        )

    def _link_up(self, name: str) -> bool:
        answer = self.ask(name, SUPERVISORS[name], {"action": "list_links"}, timeout_ms=5_000)
        links = (answer or {}).get("links", [])
        return bool(links) and all(link["up"] for link in links)

    def _answers(self, name: str, port: int) -> bool:
        return (self.ask(name, port, b"ping", timeout_ms=5_000) or {}).get("status") == "ok"

    def account(self) -> str:
        """How things stand on both hosts and what their logs said last, for a test that failed."""
        told: list[str] = []
        for name in PACKAGES:
            for process in self.processes(name).values():
                why = process.get("waiting_for") or process.get("last_exit")
                told.append(f"{name}: {process['name']} is {process['phase']} {why}")
            links = self.ask(name, SUPERVISORS[name], {"action": "list_links"}, timeout_ms=5_000)
            told.append(f"{name}: links {links}")
            for service, (host, port) in SERVICES.items():
                answer = self.ask(name, port, b"ping", timeout_ms=5_000)
                told.append(f"{name}: {service} of {host} answers {answer}")
            for log in sorted((self.home(name) / name / "logs").glob("*.log")):
                told += [f"{name}: {log.stem}: {line[:500]}" for line in log.read_text().splitlines()[-15:]]
        return "\n".join(told)

    def pid(self, name: str) -> int:
        """The pid of a service, or of a host's supervisor; 0 while there is none."""
        if name in SUPERVISORS:
            answer = self.ask(name, SUPERVISORS[name], {"action": "info"}, timeout_ms=5_000)
            return int(answer["pid"]) if answer is not None and "pid" in answer else 0
        return int(self.processes(SERVICES[name][0]).get(name, {}).get("pid", 0))

    def used_bytes(self) -> dict[str, tuple[int, int]]:
        """Used and total bytes of every card, counted from outside: the files that living processes wrote."""
        return {card: told for name in PACKAGES for card, told in held_bytes(self.home(name)).items()}


@contextmanager
def two_host_fabric(lab: TwoHosts, folder: Path, **options: Any) -> Iterator[TwoHostFabric]:
    """Both hosts up, joined and linked; stopped at the end."""
    fabric = TwoHostFabric(lab, folder, **options)
    try:
        for name in PACKAGES:
            fabric.start(name)
        for name in PACKAGES:
            until(lambda name=name: fabric.is_ready(name), 120, f"a ready {name}")  # type: ignore[misc]
        fabric.join()
        until(fabric.is_linked, 20, "the link between the hosts")
        yield fabric
    except BaseException:
        print(fabric.account())
        raise
    finally:
        for name in list(fabric.running):
            fabric.stop(name)
