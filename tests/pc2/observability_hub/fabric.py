"""A whole fabric with its hub: both hosts under `tandem start`, real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.fabric import Fabric, until


class HubFabric(Fabric):
    """The fabric of the lab, and what its hub says."""

    def startup_file(self, host: str) -> Path:
        """With vitals twice a second."""
        file = super().startup_file(host)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"vitals_interval_s": "500ms"}))
        return file

    def health(self) -> dict[str, Any]:
        """What get_health says; empty while the hub does not answer."""
        return self.ask("hub", {"action": "get_health"}, timeout_ms=5_000) or {}

    def standing(self, key: str) -> dict[str, Any]:
        """One process, or one host, as get_health shows it; empty where it does not."""
        health = self.health()
        for one in (*health.get("services", ()), *health.get("agents", ())):
            if f"{one['host']}/{one['name']}" == key:
                return dict(one)
        return next((dict(one) for one in health.get("hosts", ()) if one["host"] == key), {})

    def verdict(self, key: str) -> str:
        """Its verdict alone."""
        return str(self.standing(key).get("verdict", ""))

    def until_verdict(self, key: str, verdict: str, within_s: float = 60.0) -> dict[str, Any]:
        """Wait for a verdict; how it stands then."""
        return until(
            lambda: (found := self.standing(key)) and found["verdict"] == verdict and found,
            within_s,
            f"{key} {verdict}",
        )

    def pid(self, key: str) -> int:
        """The pid of a process."""
        host, _, name = key.partition("/")
        return int(self.processes(host)[name]["pid"])


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Processes that stand still for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def running(folder: Path, agents: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[HubFabric]:
    """A fabric that is up with all verdicts healthy, and is stopped at the end."""
    fabric = HubFabric(folder, agents)
    fabric.home.mkdir(parents=True)
    try:
        fabric.start()
        until(lambda: all_are(fabric.health(), lambda verdict: verdict == "healthy"), 30.0, "health everywhere")
        yield fabric
    finally:
        if fabric.door is not None:
            fabric.stop()


def all_are(health: Mapping[str, Any], fact: Callable[[str], bool]) -> bool:
    """Whether every verdict there is answers to `fact`; false where there are none."""
    shown = [one for part in ("hosts", "services", "agents", "links") for one in health.get(part, ())]
    return bool(shown) and all(fact(one["verdict"]) for one in shown)
