"""What the hot path counts: plain attributes, read when somebody asks.

A meter is one verb's figures since the process began, with the quantiles of the recent past. It knows no metric library and
reads no clock: `metrics` shows it to Prometheus at scrape time, `stats` shows it to callers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from common.api.basic import VerbStats
from common.errors import Code
from common.telemetry.quantiles import Quantiles

WINDOW_S: Final = 60.0
"""Quantiles are of the last one to two windows."""

OTHER: Final = "other"
"""The verb that counts those beyond the bound."""

LAST_ERROR_CHARS: Final = 500


class VerbMeter:
    """One verb's figures. `begin` and `end` bracket every request, refusals included."""

    __slots__ = ("errors", "in_flight", "last_error", "recent", "seconds", "successes", "verb")

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.in_flight = 0
        self.successes = 0
        self.errors: dict[Code, int] = {}
        self.seconds = 0.0
        self.last_error = ""
        self.recent = Quantiles()

    def begin(self) -> None:
        """A request of this verb came in."""
        self.in_flight += 1

    def end(self, elapsed_s: float, code: Code | None = None, message: str = "") -> None:
        """It was answered after `elapsed_s`; `code` is the error's, None for a success."""
        self.in_flight -= 1
        self.seconds += elapsed_s
        self.recent.observe(elapsed_s)
        if code is None:
            self.successes += 1
        else:
            self.errors[code] = self.errors.get(code, 0) + 1
            self.last_error = f"{code.value}: {message[:LAST_ERROR_CHARS]}" if message else code.value

    @property
    def failed(self) -> int:
        """Requests answered with an error."""
        return sum(self.errors.values())

    @property
    def count(self) -> int:
        """Requests answered."""
        return self.successes + self.failed

    def stats(self) -> VerbStats:
        """The figures as `stats` answers them."""
        p50_s, p95_s, p99_s = self.recent.at(0.5, 0.95, 0.99)
        return VerbStats(
            count=self.count,
            errors=self.failed,
            in_flight=self.in_flight,
            p50_ms=p50_s * 1000,
            p95_ms=p95_s * 1000,
            p99_ms=p99_s * 1000,
            last_error=self.last_error,
        )


class Meters:
    """The meters of one process, by verb; `now` is monotonic seconds.

    Counted in one thread and read in any: a reader sees a moment that may be a few counts old.
    """

    __slots__ = ("_bound", "_by_verb", "_turn_at")

    def __init__(self, now: float, bound: int = 512) -> None:
        self._by_verb: dict[str, VerbMeter] = {}
        self._bound = bound
        self._turn_at = now + WINDOW_S

    def of(self, verb: str) -> VerbMeter:
        """The meter of a verb, to be kept by the caller. Beyond `bound` verbs all share the one named `other`."""
        meter = self._by_verb.get(verb)
        if meter is None:
            name = verb if len(self._by_verb) < self._bound else OTHER
            meter = self._by_verb.setdefault(name, VerbMeter(name))
        return meter

    def tick(self, now: float) -> None:
        """Turns the windows when one is over; call it about once a second."""
        if now < self._turn_at:
            return
        lapsed = 1 + int((now - self._turn_at) // WINDOW_S)
        self._turn_at += lapsed * WINDOW_S
        for meter in self:
            for _ in range(min(lapsed, 2)):
                meter.recent.rotate()

    def stats(self) -> dict[str, VerbStats]:
        """Every verb's figures as `stats` answers them."""
        return {verb: meter.stats() for verb, meter in self._by_verb.items()}

    def __iter__(self) -> Iterator[VerbMeter]:
        return iter(list(self._by_verb.values()))
