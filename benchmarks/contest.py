"""Runs contestants against each other: servers up together, clients one at a time, in alternating rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.machine import cores

Measured = TypeVar("Measured")


@dataclass(frozen=True, slots=True)
class Server:
    """A contestant's server: its port and its process."""

    peer: str
    port: int
    pid: int

    def ask(self, role: str, *numbers: int) -> dict[str, float]:
        """What one client process measured; raises CalledProcessError when a call failed."""
        command = _command(cores()[1], self.peer, role, self.port, *numbers)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            try:
                said = client.stdout.read() if client.stdout else b""
                ended = client.wait()
            finally:
                client.kill()
        if ended:
            raise subprocess.CalledProcessError(ended, command)
        figures: dict[str, float] = json.loads(said)
        return figures

    @contextmanager
    def flooded(self, in_flight: int) -> Iterator[None]:
        """With a second client that keeps `in_flight` calls under way."""
        with _running(_command(cores()[1], self.peer, "flood", self.port, in_flight)):
            yield


def _command(core: int, peer: str, *words: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.side", str(core), peer, *map(str, words)]


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[int, int]]:
    """The first line a process prints, as a number, and its pid; it is killed at the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError(f"{' '.join(command[1:])} ended with {process.wait()} before it served")
            yield int(line), process.pid
        finally:
            process.kill()


@contextmanager
def serving(peer: str) -> Iterator[Server]:
    """The server of one contestant, on the server's core."""
    with _running(_command(cores()[0], peer, "serve")) as (port, pid):
        yield Server(peer, port, pid)


def alternate(rounds: int, measures: Mapping[str, Callable[[], Measured]]) -> dict[str, list[Measured]]:
    """Every measure once a round, in turn, so that a change of the machine's mood meets all of them."""
    found: dict[str, list[Measured]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def contest(rounds: int, peers: tuple[str, ...], role: str, *numbers: int) -> dict[str, list[dict[str, float]]]:
    """One kind of calling, for each contestant and round."""
    with ExitStack() as stack:
        servers = {peer: stack.enter_context(serving(peer)) for peer in peers}
        return alternate(rounds, {p: lambda s=s: s.ask(role, *numbers) for p, s in servers.items()})  # type: ignore[misc]
