"""What a question about a metric's past means: from which level it is answered, and how buckets become the points of an answer.

Levels are coarser the further back they reach. A question is answered from the finest level that still holds its beginning, in
steps no finer than that level's. It reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Final, NamedTuple

from common.api.observability_hub import Aggregate, MetricKind
from common.errors import BadRequest
from pc2.observability_hub.series import Bucket

DEFAULT_SPAN_S: Final = 300.0
POINTS: Final = 300
MAX_POINTS: Final = 3_000
MAX_SERIES: Final = 200
"""Series in one answer."""


class Level(NamedTuple):
    """Buckets of `step_s`, kept for `kept_s`."""

    step_s: int
    kept_s: int


LEVELS: Final = (Level(10, 3_600), Level(60, 86_400), Level(900, 30 * 86_400))


@dataclass(frozen=True, slots=True)
class Span:
    """A question made exact: from `start` until before `end` (wall seconds) in steps, from buckets of `level`."""

    start: int
    end: int
    step_s: int
    level: Level


def span(start: float | None, end: float | None, step_s: float, now: float) -> Span:
    """The question made exact; BadRequest where it ends before it begins, or asks for more points than one answer has."""
    last = now if end is None else end
    first = last - DEFAULT_SPAN_S if start is None else start
    if first >= last:
        raise BadRequest("the question's start is not before its end")
    level = next((level for level in LEVELS if now - first <= level.kept_s), LEVELS[-1])
    wanted_s = step_s or (last - first) / POINTS
    step = level.step_s * max(1, ceil(wanted_s / level.step_s))
    begins = int(first) - int(first) % step
    ends = ceil(last / step) * step
    if (ends - begins) // step > MAX_POINTS:
        raise BadRequest(f"that is more than {MAX_POINTS} points; ask for a longer step or a shorter time")
    return Span(begins, ends, step, level)


def merged(buckets: Iterable[Bucket], asked: Span) -> list[Bucket]:
    """The buckets of the answer's steps, in order of time; `buckets` may overlap and come in any order."""
    found: dict[int, Bucket] = {}
    for bucket in sorted(buckets, key=lambda one: one.start):
        start = bucket.start - bucket.start % asked.step_s
        if not asked.start <= start < asked.end:
            continue
        there = found.get(start)
        if there is None:
            found[start] = Bucket(start, bucket.count, bucket.total, bucket.least, bucket.most, bucket.last)
        else:
            _join(there, bucket)
    return list(found.values())


_OF_BUCKET: Final[Mapping[Aggregate, Callable[[Bucket], float]]] = {
    "avg": lambda one: one.total / one.count,
    "sum": lambda one: one.total,
    "count": lambda one: float(one.count),
    "min": lambda one: one.least,
    "max": lambda one: one.most,
    "last": lambda one: one.last,
}


def values(buckets: Sequence[Bucket], aggregate: Aggregate, kind: MetricKind) -> list[tuple[int, float]]:
    """The points of the answer; a rate is per second, and a counter that fell began anew at nought."""
    if aggregate == "rate":
        return [
            (after.start, _growth(before.last, after.last, kind) / (after.start - before.start))
            for before, after in pairwise(buckets)
        ]
    of_bucket = _OF_BUCKET[aggregate]
    return [(one.start, of_bucket(one)) for one in buckets]


def _growth(before: float, after: float, kind: MetricKind) -> float:
    return after if kind == "counter" and after < before else after - before


def _join(there: Bucket, later: Bucket) -> None:
    there.count += later.count
    there.total += later.total
    there.least = min(there.least, later.least)
    there.most = max(there.most, later.most)
    there.last = later.last
