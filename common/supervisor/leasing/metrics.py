"""What the leases and cards of a host look like from outside: figures for metrics, taken on the loop and read by any thread."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Final, get_args

import msgspec

from common.api.decisions import RungName
from common.api.gpus import Card
from common.telemetry.metrics import Labels, Metrics

_CARD_FIGURES: dict[str, tuple[str, Callable[[Card], float]]] = {
    "total_bytes": ("Memory of the card.", lambda card: card.total_bytes),
    "free_bytes": ("Memory that the driver calls free.", lambda card: card.free_bytes),
    "used_bytes": ("Memory that the driver calls used.", lambda card: card.used_bytes),
    "leased_bytes": ("Memory promised by leases.", lambda card: card.leased_bytes),
    "measured_bytes": ("Memory that the owners of leases are seen to hold.", lambda card: card.measured_bytes),
    "strangers_bytes": ("Memory held without a lease.", lambda card: sum(each.bytes for each in card.strangers)),
    "nameless_bytes": ("Memory that no listed process holds.", lambda card: card.nameless_bytes),
    "reserved_bytes": ("Memory kept for requests for which room was made.", lambda card: card.reserved_bytes),
    "quarantined_bytes": ("Memory that evicted leases would not let go of.", lambda card: card.quarantined_bytes),
    "pinned_bytes": ("Memory of leases that are never evicted.", lambda card: card.pinned_bytes),
    "guard_bytes": ("Memory that is never leased.", lambda card: card.guard_bytes),
    "grantable_bytes": ("Memory that a lease could get now.", lambda card: card.grantable_bytes),
    "schedulable": ("1 while leases can be granted on the card.", lambda card: card.schedulable),
}


_NONE_YET: Final[dict[Labels, float]] = {(rung, "quarantined"): 0.0 for rung in get_args(RungName)}
"""Shown from the start: Prometheus sees an increase only of what was there before."""


class LeaseFigures(msgspec.Struct):
    """The figures as last taken; each field is replaced, never changed in place, but for the counter."""

    decided: Counter[str]
    cards: Sequence[Card] = ()
    leases: int = 0
    parked: int = 0
    waiters: int = 0

    def show(self, metrics: Metrics) -> None:
        """Registers the `tandem_vram_*` metrics."""
        for name, (text, figure) in _CARD_FIGURES.items():
            metrics.read_gauge(f"tandem_vram_{name}", text, self._by_card(figure), labels=("host", "card_uuid"))
        metrics.read_gauge("tandem_vram_leases", "Leases that live.", lambda: self.leases)
        metrics.read_gauge("tandem_vram_parked", "Leases whose owners sleep.", lambda: self.parked)
        metrics.read_gauge("tandem_vram_waiters", "Requests that wait for memory.", lambda: self.waiters)
        metrics.read_counter(
            "tandem_vram_decisions_total",
            "Decisions about leases, by what was decided.",
            lambda: {(decision,): count for decision, count in list(self.decided.items())},
            labels=("decision",),
        )

    def _by_card(self, figure: Callable[[Card], float]) -> Callable[[], dict[Labels, float]]:
        return lambda: {(card.host, card.card_uuid): float(figure(card)) for card in self.cards}


class EvictionFigures(msgspec.Struct):
    """What became of evictions: their number by the rung that was the last and by outcome, and bytes as expected and as seen."""

    ended: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    expected_bytes: int = 0
    returned_bytes: int = 0

    def show(self, metrics: Metrics) -> None:
        """Registers the metrics of evictions."""
        metrics.read_counter(
            "tandem_vram_evictions_total",
            "Evictions that ended, by their last rung and by what came of them.",
            lambda: {**_NONE_YET, **{key: float(count) for key, count in list(self.ended.items())}},
            labels=("rung", "outcome"),
        )
        metrics.read_counter(
            "tandem_vram_evictions_expected_bytes_total",
            "Memory that evictions were to return.",
            lambda: float(self.expected_bytes),
        )
        metrics.read_counter(
            "tandem_vram_evictions_returned_bytes_total",
            "Memory that the cards showed evictions to return.",
            lambda: float(self.returned_bytes),
        )


class LoadFigures(msgspec.Struct):
    """Loads that were timed, and the seconds they took together, by where the weights were."""

    loads: Counter[str] = msgspec.field(default_factory=Counter)
    seconds: defaultdict[str, float] = msgspec.field(default_factory=lambda: defaultdict(float))

    def show(self, metrics: Metrics) -> None:
        """Registers the metrics of loads."""
        metrics.read_counter(
            "tandem_vram_loads_total",
            "Loads of leased models that were timed.",
            lambda: {(tier,): float(count) for tier, count in list(self.loads.items())},
            labels=("tier",),
        )
        metrics.read_counter(
            "tandem_vram_load_seconds_total",
            "Seconds that these loads took.",
            lambda: {(tier,): seconds for tier, seconds in list(self.seconds.items())},
            labels=("tier",),
        )
