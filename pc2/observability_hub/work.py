"""The work probe: what a process's own figures say about its work while it answers every ping. It asks nobody.

Work is stuck when a verb has had calls under way for long and ended none of them; verbs whose callers wait or are streamed to
may take as long as they like. It fails when most of what a verb ended lately were errors of the server's own making.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from common.api.basic import Stats, VerbStats
from common.api.observability_hub import VerbFigures
from common.errors import Code

STUCK_S: Final = 60.0
STUCK_P99: Final = 20.0
"""Calls that usually take long get longer: this many times the verb's own p99."""
FAILING: Final = 0.5
FAILING_LEAST: Final = 10
"""Fewer errors than this in a stretch are no trend."""
STRETCH_S: Final = 30.0
OWN_FAULTS: Final = frozenset({Code.INTERNAL, Code.STORAGE_UNAVAILABLE, Code.INTERRUPTED, Code.DEADLINE_EXCEEDED})
"""`unavailable` is none: a peer or a link is down, which whoever looks an agent up behind it is told, as often as it asks."""


@dataclass(slots=True)
class _Seen:
    """One verb as last told: since when its count stands with calls under way, and where the stretch began."""

    told: VerbStats
    moved_at: float
    began: VerbStats
    began_at: float
    per_s: float = 0.0
    errors_per_s: float = 0.0
    failing: str = ""


@dataclass(slots=True)
class Work:
    """One process's figures over time; `now` is monotonic seconds."""

    boot: str = ""
    told_at: float = 0.0
    _verbs: dict[str, _Seen] = field(default_factory=dict)

    def take(self, stats: Stats, now: float) -> None:
        """Takes in what it told; another boot begins anew."""
        if stats.boot != self.boot:
            self.boot, self._verbs = stats.boot, {}
        elapsed_s, self.told_at = now - self.told_at, now
        for verb, told in stats.verbs.items():
            seen = self._verbs.get(verb)
            if seen is None or told.count < seen.told.count:
                self._verbs[verb] = _Seen(told, now, told, now)
            else:
                _move(seen, verb, told, elapsed_s, now)
        for verb in self._verbs.keys() - stats.verbs.keys():
            del self._verbs[verb]

    def problem(self, waiting: Collection[str], now: float) -> str:
        """What is wrong with its work, empty when nothing is; calls of the verbs in `waiting` may take for ever."""
        stuck = (_stuck(verb, seen, now) for verb, seen in self._verbs.items() if verb not in waiting)
        return next((problem for problem in stuck if problem), "") or next(
            (seen.failing for seen in self._verbs.values() if seen.failing), ""
        )

    def figures(self) -> list[VerbFigures]:
        """Its verbs that were ever called."""
        return [_figures(verb, seen) for verb, seen in sorted(self._verbs.items()) if seen.told.count or _busy(seen)]

    def told(self) -> Mapping[str, VerbStats]:
        """Its verbs as last told, those that were ever called."""
        return {verb: seen.told for verb, seen in self._verbs.items() if seen.told.count or _busy(seen)}


def _move(seen: _Seen, verb: str, told: VerbStats, elapsed_s: float, now: float) -> None:
    if told.count != seen.told.count or not (told.in_flight and seen.told.in_flight):
        seen.moved_at = now
    if elapsed_s > 0:
        seen.per_s = (told.count - seen.told.count) / elapsed_s
        seen.errors_per_s = max(told.errors - seen.told.errors, 0) / elapsed_s
    seen.told = told
    ended, failed = told.count - seen.began.count, told.errors - seen.began.errors
    stretch_s = now - seen.began_at
    if failed >= FAILING_LEAST and failed >= FAILING * ended and told.last_error.partition(":")[0] in OWN_FAULTS:
        seen.failing = f"{verb} fails: {failed} of {ended} calls in {stretch_s:.0f} s, the last with {told.last_error}"
    elif stretch_s >= STRETCH_S:
        seen.failing = ""
    if stretch_s >= STRETCH_S:
        seen.began, seen.began_at = told, now


def _busy(seen: _Seen) -> bool:
    return seen.told.in_flight > 0


def _stuck(verb: str, seen: _Seen, now: float) -> str:
    patience_s = max(STUCK_S, STUCK_P99 * seen.told.p99_ms / 1000)
    still_s = now - seen.moved_at
    if not _busy(seen) or still_s < patience_s:
        return ""
    return f"{verb} is stuck: {seen.told.in_flight} calls under way and none ended for {still_s:.0f} s"


def _figures(verb: str, seen: _Seen) -> VerbFigures:
    told = seen.told
    return VerbFigures(
        verb=verb,
        count=told.count,
        errors=told.errors,
        in_flight=told.in_flight,
        per_s=seen.per_s,
        errors_per_s=seen.errors_per_s,
        p50_ms=told.p50_ms,
        p95_ms=told.p95_ms,
        p99_ms=told.p99_ms,
        last_error=told.last_error,
    )
