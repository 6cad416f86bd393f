from __future__ import annotations

from collections import Counter

from common.api.gpus import Card, Stranger
from common.supervisor.leasing.metrics import EvictionFigures, LeaseFigures, LoadFigures
from common.telemetry.metrics import Metrics

CARD = Card(
    host="mainpc",
    card=0,
    card_uuid="GPU-a",
    name="card",
    total_bytes=24,
    free_bytes=10,
    leased_bytes=9,
    used_bytes=14,
    grantable_bytes=3,
    simulated=True,
    strangers=[Stranger(pid=1, name="game", bytes=2), Stranger(pid=2, name="desktop", bytes=1)],
    measured_bytes=8,
    nameless_bytes=3,
    guard_bytes=4,
    reserved_bytes=5,
    quarantined_bytes=6,
    pinned_bytes=7,
)


def test_a_cards_figures_are_shown_with_its_host() -> None:
    metrics = Metrics()
    figures = LeaseFigures(Counter({"yielded": 2}), cards=[CARD], leases=4, parked=1, waiters=3)
    figures.show(metrics)
    shown = metrics.exposition().decode()
    for name, value in {
        "total": 24,
        "free": 10,
        "used": 14,
        "leased": 9,
        "measured": 8,
        "strangers": 3,
        "nameless": 3,
        "reserved": 5,
        "quarantined": 6,
        "pinned": 7,
        "guard": 4,
        "grantable": 3,
    }.items():
        assert f'tandem_vram_{name}_bytes{{card_uuid="GPU-a",host="mainpc"}} {value}.0\n' in shown
    for line in ("tandem_vram_leases 4.0", "tandem_vram_parked 1.0", "tandem_vram_waiters 3.0"):
        assert line in shown
    assert 'tandem_vram_decisions_total{decision="yielded"} 2.0' in shown


def test_evictions_are_counted_by_their_last_rung_and_outcome_and_loads_by_tier() -> None:
    metrics = Metrics()
    evictions, loads = EvictionFigures(), LoadFigures()
    evictions.show(metrics)
    loads.show(metrics)
    evictions.ended["kill", "quarantined"] += 1
    evictions.expected_bytes, evictions.returned_bytes = 10, 4
    loads.loads["parked"] += 2
    loads.seconds["parked"] += 3.5
    shown = metrics.exposition().decode()
    for line in (
        'tandem_vram_evictions_total{outcome="quarantined",rung="kill"} 1.0',
        'tandem_vram_evictions_total{outcome="quarantined",rung="term"} 0.0',
        "tandem_vram_evictions_expected_bytes_total 10.0",
        "tandem_vram_evictions_returned_bytes_total 4.0",
        'tandem_vram_loads_total{tier="parked"} 2.0',
        'tandem_vram_load_seconds_total{tier="parked"} 3.5',
    ):
        assert line in shown
