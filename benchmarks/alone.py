"""One service by itself, as a supervisor would start it: on ports and in a home of its own, and on the server's core."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil

from benchmarks.machine import cores
from common.client.directory import Directory
from tests.lab.fabric import HOSTS, SERVICES, Fabric

ROOT: Final = Path(__file__).resolve().parents[1]
PATIENCE_S: Final = 60.0


class Alone:
    """The service: what clients call it, where it is, and its process of the moment."""

    def __init__(self, short: str, fabric: Fabric, start: Callable[[], subprocess.Popen[str]]) -> None:
        self.name = SERVICES[short][1]
        self.directory = Directory.parse(fabric.environ["TANDEM_SERVICES"])
        self._fabric = fabric
        self._short = short
        self._start = start
        self._begin()

    def _begin(self) -> None:
        self._running = self._start()
        self._process = psutil.Process(self._running.pid)
        until(self._is_ready, f"{self.name} is ready")

    def _is_ready(self) -> bool:
        return bool((self._fabric.ask(self._short, {"action": "ping"}, timeout_ms=200) or {}).get("ready"))

    def back_s(self) -> float:
        """Kills it, starts it anew on the records that it left, and says after how many seconds it was ready."""
        self._running.kill()
        self._running.wait()
        began = time.perf_counter()
        self._begin()
        return time.perf_counter() - began

    @property
    def resident_mb(self) -> float:
        """Memory that its process holds now."""
        return float(self._process.memory_info().rss) / 1e6

    @property
    def busy_s(self) -> float:
        """Processor time that its process has used."""
        return busy_s(self._process)


@contextmanager
def alone(short: str) -> Iterator[Alone]:
    """The service that tests/lab/fabric.py calls `short`, ready; nobody else of its fabric is there."""
    process_name, _, host = SERVICES[short]
    command = [sys.executable, "-m", HOSTS[host], process_name]
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder, ExitStack() as stack:
        fabric = Fabric(Path(folder))
        fabric.home.mkdir()
        environ = fabric.environ | {
            "TANDEM_HOST": host,
            "TANDEM_PORT": str(fabric.ports[short]),
            "TANDEM_EVENTS_PORT": str(fabric.ports[f"{short}_events"]),
            "TANDEM_HEALTH_PORT": str(fabric.ports[f"{short}_health"]),
        }
        yield Alone(short, fabric, lambda: stack.enter_context(started(command, environ, core=cores()[0])))


@contextmanager
def started(
    command: Sequence[str], environ: Mapping[str, str] | None = None, core: int = -1
) -> Iterator[subprocess.Popen[str]]:
    """A program on that core (-1: on any), with its output to read; it is ended at the end."""
    pinned = ["taskset", "--cpu-list", str(core), *command] if core >= 0 else list(command)
    with subprocess.Popen(
        pinned,
        env=environ,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def until(holds: Callable[[], object], what: str, within_s: float = PATIENCE_S, every_s: float = 0.01) -> None:
    """Waits until it holds, asking so often; TimeoutError when it never does."""
    give_up_at = time.perf_counter() + within_s
    while not holds():
        if time.perf_counter() > give_up_at:
            raise TimeoutError(f"{what}: not within {within_s} s")
        time.sleep(every_s)


def busy_s(process: psutil.Process) -> float:
    """Processor time that a process has used, in seconds."""
    used = process.cpu_times()
    return float(used.user + used.system)
