"""The process's metrics as Prometheus reads them (text format 0.0.4), on a registry of its own.

A name is `tandem_<room>_<what>_<unit>`, units are base units, counters end in `_total`. Two ways in: a counter, gauge or
histogram of prometheus-client, whose children the caller keeps; or a reading, a function asked at scrape time, so that the
hot path counts in plain attributes and pays nothing. It decides nothing and serves no port.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from common.api.basic import BreakerStats
from common.clock import Clock
from common.telemetry.meters import Meters

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS_S: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)

_NAME: Final = re.compile(r"tandem_[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")
_NOT_BASE_UNITS: Final = re.compile(
    r"_(ms|us|ns|msec|milliseconds|microseconds|nanoseconds|minutes|hours|kb|mb|gb|kib|mib|gib|percent)\Z"
)
_QUANTILES: Final = (0.5, 0.95, 0.99)
_STATE_NUMBER: Final = {"closed": 0.0, "half_open": 1.0, "open": 2.0}

Labels = tuple[str, ...]
Reading = float | Mapping[Labels, float]
"""One value, or one for each combination of label values."""


class Metrics:
    """One process's metrics. Registering a name twice, or one that breaks the convention, raises ValueError."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        """A counter; call `labels(...)` once and keep the child: 0.2 us an increment instead of 0.9."""
        return Counter(_counter_name(name), help, labels, registry=self._registry)

    def gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
        """A gauge, set by the caller."""
        return Gauge(_checked(name), help, labels, registry=self._registry)

    def histogram(
        self, name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> Histogram:
        """A histogram with the given upper bounds."""
        return Histogram(_checked(name), help, labels, registry=self._registry, buckets=buckets)

    def read_counter(self, name: str, help: str, read: Callable[[], Reading], labels: Sequence[str] = ()) -> None:
        """A counter that lives elsewhere; `read` is called at each scrape, in the scraping thread."""
        base = _counter_name(name)
        self._registry.register(_Reader(lambda: CounterMetricFamily(base, help, labels=labels), read))

    def read_gauge(self, name: str, help: str, read: Callable[[], Reading], labels: Sequence[str] = ()) -> None:
        """A gauge that lives elsewhere; `read` is called at each scrape, in the scraping thread."""
        base = _checked(name)
        self._registry.register(_Reader(lambda: GaugeMetricFamily(base, help, labels=labels), read))

    def show_meters(self, meters: Meters, clock: Clock) -> None:
        """Shows every verb's requests, durations and requests in flight; `clock` turns their windows in time."""
        self._registry.register(_VerbReader(meters, clock))

    def show_breakers(self, read: Callable[[], Iterable[BreakerStats]]) -> None:
        """Shows the state of every breaker, and how often it opened."""
        self._registry.register(_BreakerReader(read))

    def exposition(self) -> bytes:
        """Everything, in the text format; its content type is CONTENT_TYPE."""
        return generate_latest(self._registry)


class _Reader(Collector):
    """One family whose values are asked for at scrape time."""

    def __init__(
        self, family: Callable[[], CounterMetricFamily | GaugeMetricFamily], read: Callable[[], Reading]
    ) -> None:
        self._family = family
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Its name, so that registering asks for no value."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """The family with the values of this moment."""
        reading = self._read()
        family = self._family()
        by_labels = reading if isinstance(reading, Mapping) else {(): reading}
        for labels, value in by_labels.items():
            family.add_metric(labels, value)
        return [family]


class _VerbReader(Collector):
    """The three families of the verbs' meters."""

    def __init__(self, meters: Meters, clock: Clock) -> None:
        self._meters = meters
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Its names, so that registering asks for no value."""
        return self._families()

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment; a failed request's outcome is its error's code."""
        self._meters.tick(self._clock.monotonic())
        requests, seconds, in_flight = self._families()
        for meter in self._meters:
            verb = meter.verb
            requests.add_metric((verb, "success"), meter.successes)
            for code, count in list(meter.errors.items()):
                requests.add_metric((verb, code.value), count)
            for share, value in zip(_QUANTILES, meter.recent.at(*_QUANTILES), strict=True):
                seconds.add_sample(seconds.name, {"verb": verb, "quantile": str(share)}, value)
            seconds.add_metric((verb,), meter.count, meter.seconds)
            in_flight.add_metric((verb,), meter.in_flight)
        return requests, seconds, in_flight

    def _families(self) -> tuple[CounterMetricFamily, SummaryMetricFamily, GaugeMetricFamily]:
        return (
            CounterMetricFamily("tandem_requests_total", "Requests answered, by outcome.", labels=("verb", "outcome")),
            SummaryMetricFamily("tandem_request_seconds", "Seconds from decoding to the reply.", labels=("verb",)),
            GaugeMetricFamily("tandem_requests_in_flight", "Requests being worked on.", labels=("verb",)),
        )


class _BreakerReader(Collector):
    """The two families of the breakers."""

    def __init__(self, read: Callable[[], Iterable[BreakerStats]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Its names, so that registering asks for no value."""
        return self._families()

    def collect(self) -> Iterable[Metric]:
        """The breakers as they stand."""
        state, opened = self._families()
        for breaker in self._read():
            state.add_metric((breaker.endpoint,), _STATE_NUMBER[breaker.state])
            opened.add_metric((breaker.endpoint,), breaker.opened)
        return state, opened

    def _families(self) -> tuple[GaugeMetricFamily, CounterMetricFamily]:
        return (
            GaugeMetricFamily("tandem_breaker_state", "0 closed, 1 half open, 2 open.", labels=("endpoint",)),
            CounterMetricFamily("tandem_breaker_opened_total", "Times the breaker opened.", labels=("endpoint",)),
        )


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"the metric {name!r} is not named tandem_<room>_<what>_<unit>")
    if _NOT_BASE_UNITS.search(name):
        raise ValueError(f"the metric {name!r} is not in base units: seconds, bytes, ratio")
    if name.endswith("_total"):
        raise ValueError(f"the metric {name!r} ends in _total and is no counter")
    return name


def _counter_name(name: str) -> str:
    if not name.endswith("_total"):
        raise ValueError(f"the counter {name!r} does not end in _total")
    return _checked(name.removesuffix("_total"))
