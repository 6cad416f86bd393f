"""What the leases and cards of a host look like from outside: figures for metrics, taken on the loop and read by any thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from common.api.leases import Card
from common.telemetry.metrics import Labels, Metrics

_CARD_FIGURES: dict[str, tuple[str, Callable[[Card], float]]] = {
    "total_bytes": ("Memory of the card.", lambda card: card.total_bytes),
    "free_bytes": ("Memory that the driver calls free.", lambda card: card.free_bytes),
    "used_bytes": ("Memory that the driver calls used.", lambda card: card.used_bytes),
    "leased_bytes": ("Memory promised by leases.", lambda card: card.leased_bytes),
    "grantable_bytes": ("Memory that a lease could get now.", lambda card: card.grantable_bytes),
    "schedulable": ("1 while leases can be granted on the card.", lambda card: card.schedulable),
}


class LeaseFigures(msgspec.Struct):
    """The figures as last taken; each field is replaced, never changed in place, but for the counter."""

    decided: Counter[str]
    cards: Sequence[Card] = ()
    leases: int = 0
    waiters: int = 0

    def show(self, metrics: Metrics) -> None:
        """Registers the `tandem_vram_*` metrics."""
        for name, (text, figure) in _CARD_FIGURES.items():
            metrics.read_gauge(f"tandem_vram_{name}", text, self._by_card(figure), labels=("host", "card_uuid"))
        metrics.read_gauge("tandem_vram_leases", "Leases that live.", lambda: self.leases)
        metrics.read_gauge("tandem_vram_waiters", "Requests that wait for memory.", lambda: self.waiters)
        metrics.read_counter(
            "tandem_vram_decisions_total",
            "Decisions about leases, by what was decided.",
            lambda: {(decision,): count for decision, count in list(self.decided.items())},
            labels=("decision",),
        )

    def _by_card(self, figure: Callable[[Card], float]) -> Callable[[], dict[Labels, float]]:
        return lambda: {(card.host, card.card_uuid): float(figure(card)) for card in self.cards}
