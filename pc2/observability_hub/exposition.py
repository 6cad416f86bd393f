"""What the hub shows to Prometheus beside its own figures: verdicts, vitals, links and restarts of the whole fabric.

One scrape of the hub is enough to raise every alarm about processes. Labels are bounded by what there is to watch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.api.observability_hub import LinkHealth, Verdict
from common.api.supervisor import Vitals
from common.telemetry.metrics import Labels, Metrics
from pc2.observability_hub.steady import Opinion
from pc2.observability_hub.ward import Ward

LEVEL: Final[dict[Verdict, float]] = {"unknown": -1, "healthy": 0, "degraded": 1, "unhealthy": 2, "unreachable": 3}
_LEVELS: Final = "-1 unknown, 0 healthy, 1 degraded, 2 unhealthy, 3 unreachable"

_VITALS: Final[dict[str, tuple[str, Callable[[Vitals], float]]]] = {
    "cpu_ratio": ("Share of all cores in use.", lambda vitals: vitals.cpu_pct / 100),
    "load": ("Load over one minute.", lambda vitals: vitals.load_1m),
    "cores": ("Cores.", lambda vitals: float(vitals.cores)),
    "memory_total_bytes": ("Memory.", lambda vitals: float(vitals.memory_total_bytes)),
    "memory_used_bytes": ("Memory in use.", lambda vitals: float(vitals.memory_used_bytes)),
    "swap_used_bytes": ("Swap in use.", lambda vitals: float(vitals.swap_used_bytes)),
    "disk_total_bytes": ("Size of the file system of TANDEM_HOME.", lambda vitals: float(vitals.disk_total_bytes)),
    "disk_free_bytes": ("Free space on it.", lambda vitals: float(vitals.disk_free_bytes)),
}


def vitals_values(vitals: Vitals) -> dict[str, float]:
    """A host's vitals as metrics by name."""
    return {f"tandem_host_{name}": read(vitals) for name, (_, read) in _VITALS.items()}


class Exposition:
    """The gauges of what `ward` holds; they are read by the health port's thread, each from one copy of the table."""

    def __init__(self, ward: Ward, links: Callable[[], list[LinkHealth]]) -> None:
        self._ward = ward
        self._links = links

    def show(self, metrics: Metrics) -> None:
        """Registers them."""
        gauge = metrics.read_gauge
        gauge("tandem_process_verdict", f"{_LEVELS}.", self._processes, labels=("host", "name", "kind", "because"))
        gauge("tandem_host_verdict", f"{_LEVELS}.", self._hosts, labels=("host",))
        gauge("tandem_process_crash_looping", "1 while given up by its supervisor.", self._looping, ("host", "name"))
        metrics.read_counter(
            "tandem_process_restarts_total", "Restarts, as its supervisor tells.", self._restarts, ("host", "name")
        )
        for name, (text, read) in _VITALS.items():
            gauge(f"tandem_host_{name}", text, self._vital(read), labels=("host",))
        gauge("tandem_link_up", "1 while it is up, by who says so.", self._up, labels=("host", "peer", "seen_from"))
        gauge(
            "tandem_link_round_trip_seconds",
            "Round trip, by who measured.",
            self._round_trip,
            ("host", "peer", "seen_from"),
        )

    def _processes(self) -> dict[Labels, float]:
        return {
            (one.host, one.name, one.what, one.steady.opinion.because): _level(one.steady.opinion)
            for one in list(self._ward)
        }

    def _hosts(self) -> dict[Labels, float]:
        return {(host.name,): _level(host.steady.opinion) for host in list(self._ward.hosts.values())}

    def _looping(self) -> dict[Labels, float]:
        return {(one.host, one.name): float(one.told.phase == "crash-looping") for one in list(self._ward) if one.told}

    def _restarts(self) -> dict[Labels, float]:
        return {(one.host, one.name): float(one.told.restarts) for one in list(self._ward) if one.told}

    def _vital(self, read: Callable[[Vitals], float]) -> Callable[[], dict[Labels, float]]:
        def values() -> dict[Labels, float]:
            return {(host.name,): read(host.vitals) for host in list(self._ward.hosts.values()) if host.vitals}

        return values

    def _up(self) -> dict[Labels, float]:
        return {(link.host, link.peer, side.seen_from): float(side.up) for link in self._links() for side in link.sides}

    def _round_trip(self) -> dict[Labels, float]:
        return {
            (link.host, link.peer, side.seen_from): side.round_trip_ms / 1000
            for link in self._links()
            for side in link.sides
        }


def _level(opinion: Opinion) -> float:
    return LEVEL[opinion.verdict]
