"""Metric history: the last 60 points of each metric, by name.

Anything older is asked of ObservabilityHub. When there are more metrics than are kept, the one silent for longest is forgotten.
It samples nothing and reads no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from common.api.core_orchestrator import Field, History, Point
from common.errors import NotFound

POINTS: Final = 60
MAX_METRICS: Final = 4_000


@dataclass(slots=True)
class _Series:
    source: str
    heard_at: float
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS))


class MetricHistory:
    """The points of every metric; `now` is monotonic seconds, `at` RFC 3339."""

    def __init__(self, max_metrics: int = MAX_METRICS) -> None:
        self._max_metrics = max_metrics
        self._series: dict[str, _Series] = {}

    def __len__(self) -> int:
        return len(self._series)

    def add(self, source: str, values: Mapping[str, float], at: str, now: float) -> None:
        """Takes one reading of each of these metrics."""
        for name, value in values.items():
            series = self._series.pop(name, None) or _Series(source, now)
            series.source, series.heard_at = source, now
            series.points.append(Point(at=at, value=value))
            self._series[name] = series
        while len(self._series) > self._max_metrics:
            del self._series[next(iter(self._series))]

    def forget(self, source: str) -> None:
        """Lets go of every metric that `source` was the last to tell."""
        for name in [name for name, series in self._series.items() if series.source == source]:
            del self._series[name]

    def latest(self, prefix: str, now: float) -> dict[str, Field]:
        """The latest value of each metric whose name begins with `prefix`, with its source and age, by name."""
        return {
            name: Field(value=series.points[-1].value, source=series.source, age_s=max(0.0, now - series.heard_at))
            for name, series in sorted(self._series.items())
            if name.startswith(prefix)
        }

    def history(self, metric: str, points: int) -> History:
        """Up to `points` latest points, oldest first; NotFound when nothing was heard of the metric."""
        series = self._series.get(metric)
        if series is None:
            raise NotFound(f"no metric {metric!r} was heard of; get_metrics lists those there are")
        skipped = max(0, len(series.points) - points)
        return History(metric=metric, points=list(islice(series.points, skipped, None)))
