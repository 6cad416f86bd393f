"""Points of metrics on their way to history: gathered into buckets, so that memory is bounded whatever is pushed.

A series is a metric of one agent with one set of labels. Its buckets of BUCKET_S are handed over every few seconds, and what
comes later for the same bucket is handed over as a bucket of its own, to be added. What would go beyond a bound is dropped and
counted, and so is what is no number, too old or too new. Who pushes says itself which agent it speaks for, so room is shared by
who pushes, too. It touches no disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Final, NamedTuple

from common.api.observability_hub import MetricKind, MetricPoint
from common.resilience.share import Holdings, has_share

BUCKET_S: Final = 10
MAX_SERIES: Final = 20_000
MAX_PER_AGENT: Final = 5_000
IDLE_S: Final = 900.0
"""A series without a point for this long makes room; its history stays."""
LATE_S: Final = 86_400.0
"""A point older than this is not taken: its sender was cut off for longer than history is kept finely."""
AHEAD_S: Final = 60.0
LARGEST: Final = 1e200
"""So that no sum of points is beyond what a number can be."""
NOT_FINITE: Final = "not a finite number"
TOO_LARGE: Final = f"a number beyond {LARGEST:g}"
FAR_TIME: Final = "its time is too far from now"


class SeriesKey(NamedTuple):
    """What tells one series from another; labels sorted by name."""

    name: str
    agent: str
    labels: tuple[tuple[str, str], ...]

    def answers(self, name: str, agent: str, labels: Mapping[str, str]) -> bool:
        """Whether it is of that metric, of that agent where one is named, and carries all of `labels`."""
        return self.name == name and (not agent or self.agent == agent) and labels.items() <= dict(self.labels).items()


@dataclass(slots=True)
class Bucket:
    """What BUCKET_S seconds from `start` (a multiple of the step, wall seconds) held of one series."""

    start: int
    count: int
    total: float
    least: float
    most: float
    last: float

    def add(self, value: float) -> None:
        """One more point."""
        self.count += 1
        self.total += value
        self.least = min(self.least, value)
        self.most = max(self.most, value)
        self.last = value


@dataclass(slots=True)
class Series:
    """One series, and what was added to it since it was handed over last, by the start of the bucket; `by` is who began it."""

    key: SeriesKey
    kind: MetricKind
    by: str = ""
    heard_at: float = 0.0
    open: dict[int, Bucket] = field(default_factory=dict)

    def add(self, value: float, at: float, heard_at: float) -> None:
        """One point of the time `at`."""
        self.heard_at = heard_at
        start = int(at) - int(at) % BUCKET_S
        bucket = self.open.get(start)
        if bucket is None:
            self.open[start] = Bucket(start, 1, value, value, value, value)
        else:
            bucket.add(value)


class Closed(NamedTuple):
    """A bucket that is over, of a series."""

    key: SeriesKey
    kind: MetricKind
    bucket: Bucket


class SeriesTable:
    """All series. `now` is wall seconds: the points carry them too."""

    def __init__(self, max_series: int = MAX_SERIES, max_per_agent: int = MAX_PER_AGENT) -> None:
        self._max = max_series
        self._max_per_agent = max_per_agent
        self._series: dict[SeriesKey, Series] = {}
        self._by_agent: dict[str, int] = {}
        self._by_caller = Holdings()
        self.taken = 0
        self._full = f"there are {max_series} series already"
        self._agent_full = f"the agent has {max_per_agent} series already"
        self._share_full = f"the caller has its share of the {max_series} series already"
        reasons = (NOT_FINITE, TOO_LARGE, FAR_TIME, self._full, self._agent_full, self._share_full)
        self.dropped = dict.fromkeys(reasons, 0)
        """By reason, each from 0 on: growth is seen from the first one."""

    def __len__(self) -> int:
        return len(self._series)

    def take(self, agent: str, points: list[MetricPoint], now: float, by: str = "") -> tuple[int, str]:
        """Takes points of a caller in: how many, and why the last of those that were not was dropped."""
        taken, why = 0, ""
        for point in points:
            at = now if point.at is None else point.at.timestamp()
            problem = self.add(agent, point.name, point.value, point.labels, at, now, point.kind, by)
            if problem:
                why = problem
            else:
                taken += 1
        return taken, why

    def add(
        self,
        agent: str,
        name: str,
        value: float,
        labels: Mapping[str, str],
        at: float,
        now: float,
        kind: MetricKind = "gauge",
        by: str = "",
    ) -> str:
        """Takes one point of a caller in, or, where none is named, of this process; why not, where it is dropped."""
        key = SeriesKey(name, agent, tuple(sorted(labels.items())) if labels else ())
        series = self._series.get(key)
        problem = _flaw(value, at, now) or ("" if series is not None else self._no_room(agent, by))
        if problem:
            self.dropped[problem] += 1
            return problem
        if series is None:
            series = self._series[key] = Series(key, kind, by)
            self._by_agent[agent] = self._by_agent.get(agent, 0) + 1
            self._by_caller.change(1, by)
        series.add(value, at, now)
        self.taken += 1
        return ""

    def _no_room(self, agent: str, by: str) -> str:
        if len(self._series) >= self._max:
            return self._full
        if self._by_agent.get(agent, 0) >= self._max_per_agent:
            return self._agent_full
        return self._share_full if by and not has_share(self._by_caller.of(by), len(self._series), self._max) else ""

    def close(self, now: float) -> list[Closed]:
        """Takes out all that was added since the last time; series that were idle for long make room.

        A bucket under way is taken out too: whoever keeps it adds the rest to it later.
        """
        found: list[Closed] = []
        for key, series in list(self._series.items()):
            found += (Closed(key, series.kind, bucket) for bucket in series.open.values())
            series.open.clear()
            if now - series.heard_at > IDLE_S:
                del self._series[key]
                self._forget_one(series)
        return found

    def _forget_one(self, series: Series) -> None:
        agent = series.key.agent
        self._by_caller.change(-1, series.by)
        self._by_agent[agent] -= 1
        if not self._by_agent[agent]:
            del self._by_agent[agent]

    def matching(self, name: str, agent: str, labels: Mapping[str, str]) -> Iterator[Series]:
        """The series of a metric: of one agent where it is named, and that carry all of `labels`."""
        for key, series in self._series.items():
            if key.answers(name, agent, labels):
                yield series


def _flaw(value: float, at: float, now: float) -> str:
    """What is wrong with a point whatever its series; empty: nothing."""
    if not isfinite(value):
        return NOT_FINITE
    if abs(value) > LARGEST:
        return TOO_LARGE
    return "" if now - LATE_S <= at <= now + AHEAD_S else FAR_TIME
