"""The process's metrics as Prometheus reads them (text format 0.0.4), on a registry of its own.

A name is `tandem_<room>_<what>_<unit>`, units are base units, counters end in `_total`. A metric is a reading: a function
asked at scrape time, so that the hot path counts in plain attributes and pays nothing. prometheus-client writes the text, and
is imported at the first scrape: it takes 5 MB, and most processes are never scraped. It decides nothing and serves no port.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from common.api.basic import BreakerStats
from common.clock import Clock
from common.telemetry.meters import Meters

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NAME: Final = re.compile(r"tandem_[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")
_NOT_BASE_UNITS: Final = re.compile(
    r"_(ms|us|ns|msec|milliseconds|microseconds|nanoseconds|minutes|hours|kb|mb|gb|kib|mib|gib|percent)\Z"
)
_QUANTILES: Final = (0.5, 0.95, 0.99)
_STATE_NUMBER: Final = {"closed": 0.0, "half_open": 1.0, "open": 2.0}

Labels = tuple[str, ...]
Reading = float | Mapping[Labels, float]
"""One value, or one for each combination of label values."""


class _Collector(Protocol):
    """What prometheus-client asks at each scrape."""

    def collect(self) -> Iterable[Metric]:
        """The families with the values of this moment."""
        ...


class Metrics:
    """One process's metrics. Registering a name twice, or one that breaks the convention, raises ValueError."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._collectors: list[_Collector] = []
        self._registry: CollectorRegistry | None = None

    def read_counter(self, name: str, help: str, read: Callable[[], Reading], labels: Sequence[str] = ()) -> None:
        """A counter that lives elsewhere; `read` is called at each scrape, in the scraping thread."""
        self._add(_Reader(_counter_name(name), help, read, labels, counts=True), name)

    def read_gauge(self, name: str, help: str, read: Callable[[], Reading], labels: Sequence[str] = ()) -> None:
        """A gauge that lives elsewhere; `read` is called at each scrape, in the scraping thread."""
        self._add(_Reader(_checked(name), help, read, labels, counts=False), name)

    def show_meters(self, meters: Meters, clock: Clock) -> None:
        """Shows every verb's requests, durations and requests in flight; `clock` turns their windows in time."""
        self._add(_Verbs(meters, clock), "tandem_requests_total", "tandem_request_seconds", "tandem_requests_in_flight")

    def show_breakers(self, read: Callable[[], Iterable[BreakerStats]]) -> None:
        """Shows the state of every breaker, and how often it opened."""
        self._add(_Breakers(read), "tandem_breaker_state", "tandem_breaker_opened_total")

    def exposition(self) -> bytes:
        """Everything, in the text format; its content type is CONTENT_TYPE. Called by one thread alone."""
        from prometheus_client import generate_latest

        if self._registry is None:
            self._registry = _of_the_process()
        while self._collectors:
            self._registry.register(self._collectors.pop(0))
        return generate_latest(self._registry)

    def _add(self, collector: _Collector, *names: str) -> None:
        if taken := self._names.intersection(names):
            raise ValueError(f"the metric {', '.join(taken)} is registered twice")
        self._names.update(names)
        self._collectors.append(collector)


def _of_the_process() -> CollectorRegistry:
    """A registry with what any Python process shows of itself."""
    from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class _Reader:
    """One counter or gauge whose values are asked for at scrape time."""

    def __init__(
        self, name: str, help: str, read: Callable[[], Reading], labels: Sequence[str], *, counts: bool
    ) -> None:
        self._name = name
        self._help = help
        self._read = read
        self._labels = labels
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """The family with the values of this moment."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        kind = CounterMetricFamily if self._counts else GaugeMetricFamily
        family = kind(self._name, self._help, labels=self._labels)
        reading = self._read()
        for labels, value in reading.items() if isinstance(reading, Mapping) else [((), reading)]:
            family.add_metric(labels, value)
        return [family]


class _Verbs:
    """The three families of the verbs' meters."""

    def __init__(self, meters: Meters, clock: Clock) -> None:
        self._meters = meters
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment; a failed request's outcome is its error's code."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        requests = CounterMetricFamily("tandem_requests", "Requests answered, by outcome.", labels=("verb", "outcome"))
        seconds = SummaryMetricFamily("tandem_request_seconds", "Seconds from decoding to the reply.", labels=("verb",))
        in_flight = GaugeMetricFamily("tandem_requests_in_flight", "Requests being worked on.", labels=("verb",))
        self._meters.tick(self._clock.monotonic())
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


class _Breakers:
    """The two families of the breakers."""

    def __init__(self, read: Callable[[], Iterable[BreakerStats]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """The breakers as they stand."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        state = GaugeMetricFamily("tandem_breaker_state", "0 closed, 1 half open, 2 open.", labels=("endpoint",))
        opened = CounterMetricFamily("tandem_breaker_opened", "Times the breaker opened.", labels=("endpoint",))
        for breaker in self._read():
            state.add_metric((breaker.endpoint,), _STATE_NUMBER[breaker.state])
            opened.add_metric((breaker.endpoint,), breaker.opened)
        return state, opened


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
