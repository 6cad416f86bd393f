from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.api.basic import BreakerStats
from common.errors import Code
from common.telemetry.meters import WINDOW_S, Meters
from common.telemetry.metrics import Metrics


class ManualClock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    """The one sample of that name and those labels."""
    (value,) = (
        sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return value


def busy() -> tuple[Metrics, Meters, ManualClock]:
    metrics, meters, clock = Metrics(), Meters(0.0), ManualClock()
    metrics.show_meters(meters, clock)
    meter = meters.of("ping")
    for code in (None, None, Code.OVERLOADED):
        meter.begin()
        meter.end(0.25, code)
    meter.begin()
    return metrics, meters, clock


def test_a_verbs_figures_are_read_when_asked_for() -> None:
    metrics, meters, _ = busy()
    assert sample(metrics, "tandem_requests_total", verb="ping", outcome="success") == 2
    assert sample(metrics, "tandem_requests_total", verb="ping", outcome="overloaded") == 1
    assert sample(metrics, "tandem_requests_in_flight", verb="ping") == 1
    assert sample(metrics, "tandem_request_seconds_count", verb="ping") == 3
    assert sample(metrics, "tandem_request_seconds_sum", verb="ping") == 0.75
    assert sample(metrics, "tandem_request_seconds", verb="ping", quantile="0.99") == pytest.approx(0.25, rel=0.02)
    meters.of("ping").end(0.25)
    assert sample(metrics, "tandem_requests_total", verb="ping", outcome="success") == 3


def test_a_scrape_turns_the_windows() -> None:
    metrics, _, clock = busy()
    clock.now = 3 * WINDOW_S
    assert sample(metrics, "tandem_request_seconds", verb="ping", quantile="0.5") == 0.0


def test_breakers_show_their_state_and_how_often_they_opened() -> None:
    metrics = Metrics()
    states = ("closed", "half_open", "open")
    metrics.show_breakers(
        lambda: [BreakerStats(endpoint=s, state=s, calls=1, failures=0, slow=0, opened=n) for n, s in enumerate(states)]
    )
    assert [sample(metrics, "tandem_breaker_state", endpoint=state) for state in states] == [0, 1, 2]
    assert sample(metrics, "tandem_breaker_opened_total", endpoint="open") == 2


def test_readings_are_taken_at_each_scrape_and_not_before() -> None:
    metrics, drops, asked = Metrics(), {("lease_changed",): 3.0}, []

    def depth() -> float:
        asked.append(1)
        return 7.0

    metrics.read_counter("tandem_events_dropped_total", "Events dropped.", lambda: drops, labels=("topic",))
    metrics.read_gauge("tandem_queue_tasks", "Tasks waiting.", depth)
    assert not asked
    drops["agent_changed",] = 1.0
    assert sample(metrics, "tandem_events_dropped_total", topic="lease_changed") == 3
    assert sample(metrics, "tandem_events_dropped_total", topic="agent_changed") == 1
    assert sample(metrics, "tandem_queue_tasks") == 7


@pytest.mark.parametrize(
    "name", ["leases_bytes", "tandem_Lease_bytes", "tandem_wait_ms", "tandem_memory_mib", "tandem_x_total"]
)
def test_a_name_off_the_convention_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metric"):
        Metrics().read_gauge(name, "No.", lambda: 0.0)


def test_a_counter_ends_in_total() -> None:
    with pytest.raises(ValueError, match="does not end in _total"):
        Metrics().read_counter("tandem_leases_granted", "No.", lambda: 0.0)


def test_the_process_shows_itself_and_what_is_registered_between_two_scrapes() -> None:
    metrics = Metrics()
    assert sample(metrics, "process_resident_memory_bytes") > 0
    metrics.read_gauge("tandem_card_used_bytes", "Bytes in use.", lambda: 5.0)
    assert sample(metrics, "tandem_card_used_bytes") == 5


def test_a_process_that_is_never_scraped_imports_no_prometheus() -> None:
    code = "import sys, common.telemetry.metrics as m; m.Metrics(); sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_name_is_registered_once() -> None:
    metrics = Metrics()
    metrics.read_gauge("tandem_queue_tasks", "Tasks waiting.", lambda: 0.0)
    with pytest.raises(ValueError, match="twice"):
        metrics.read_gauge("tandem_queue_tasks", "Tasks waiting.", lambda: 0.0)


def test_two_processes_worth_of_metrics_do_not_meet() -> None:
    for _ in range(2):
        Metrics().read_counter("tandem_leases_granted_total", "Leases granted.", lambda: 0.0)


def test_promtool_accepts_the_exposition() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    metrics, _, _ = busy()
    metrics.show_breakers(lambda: [BreakerStats(endpoint="a", state="open", calls=1, failures=1, slow=0, opened=1)])
    metrics.read_counter("tandem_events_dropped_total", "Events dropped.", lambda: {("a",): 1.0}, labels=("topic",))
    metrics.read_gauge("tandem_card_used_bytes", "Bytes in use.", lambda: 5.0)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.exposition(), capture_output=True, timeout=120, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
