"""What a row of probes says of one subject: confirmed by k of the last n, so that one lost answer is no news.

Each probe is an outcome with a weight. A worse state is believed when 2 of the last 3 probes are at least as bad, no answer at
all (`unreachable`) only when 4 of the last 5 found none; a better one when the last 2 are. The very first answer is believed at
once. It keeps no time: how soon a verdict may change again is `steady`'s to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from common.api.observability_hub import Verdict

SPAN: Final = 5
DOWN: Final = 4
"""Misses of the last SPAN probes that make a subject unreachable."""
RECENT: Final = 3
CONFIRMED: Final = 2
BETTER: Final = 2


class Weight(IntEnum):
    """How bad an outcome is."""

    WELL = 0
    WEAK = 1
    UNWELL = 2
    MISS = 3


VERDICTS: Final[dict[Weight, Verdict]] = {
    Weight.WELL: "healthy",
    Weight.WEAK: "degraded",
    Weight.UNWELL: "unhealthy",
    Weight.MISS: "unreachable",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one probe ended. `silent`: no answer in time, which a slow asker may be the reason of; a refusal is a fact.

    `own` is the hub's word on itself, for which it needs no ears.
    """

    weight: Weight
    reason: str = ""
    latency_s: float = 0.0
    silent: bool = False
    own: bool = False


@dataclass(slots=True)
class Evidence:
    """The last probes of one subject, and what is believed because of them; `missed_since` while the last ones were misses."""

    believed: Verdict = "unknown"
    reason: str = ""
    rests_on_silence: bool = False
    latency_s: float = 0.0
    answered_at: float = float("-inf")
    missed_since: float | None = None
    _last: deque[Outcome] = field(default_factory=lambda: deque(maxlen=SPAN))

    def take(self, outcome: Outcome, at: float) -> None:
        """Weighs one more probe, begun at `at` (monotonic seconds)."""
        first = not self._last or self.believed == "unknown"
        self._last.append(outcome)
        if outcome.weight is Weight.MISS:
            self.missed_since = at if self.missed_since is None else self.missed_since
        else:
            self.missed_since = None
            self.answered_at, self.latency_s = at, outcome.latency_s
        if first and outcome.weight is not Weight.MISS:
            self._believe(outcome.weight, [outcome])
        else:
            self._weigh()

    def drop_silence(self) -> None:
        """The asker was slow: silences say nothing, and what is believed because of them is not known any more."""
        kept = [outcome for outcome in self._last if not outcome.silent]
        self._last.clear()
        self._last.extend(kept)
        if not any(outcome.weight is Weight.MISS for outcome in kept[-1:]):
            self.missed_since = None
        if self.rests_on_silence:
            self.believed, self.reason, self.rests_on_silence = "unknown", "", False

    def _weigh(self) -> None:
        recent = list(self._last)[-RECENT:]
        worst = sorted((outcome.weight for outcome in recent), reverse=True)
        confirmed = worst[CONFIRMED - 1] if len(worst) >= CONFIRMED else Weight.WELL
        if confirmed is Weight.MISS and self._misses() < DOWN:
            confirmed = Weight.WEAK
        standing = _weight_of(self.believed)
        if confirmed >= standing and confirmed is not Weight.WELL:
            self._believe(confirmed, self._last)
        elif len(recent) >= BETTER:
            best = max(outcome.weight for outcome in recent[-BETTER:])
            if best is not Weight.MISS and best < standing:
                self._believe(best, self._last)

    def _misses(self) -> int:
        return sum(outcome.weight is Weight.MISS for outcome in self._last)

    def _believe(self, weight: Weight, outcomes: Iterable[Outcome]) -> None:
        """Believes it for the newest reason of an outcome as bad; for one that may be missing, how many probes say so."""
        bad = [outcome for outcome in outcomes if outcome.weight >= max(weight, Weight.WEAK)]
        self.believed, self.reason, self.rests_on_silence = VERDICTS[weight], "", False
        if weight is not Weight.WELL:
            self.reason, self.rests_on_silence = bad[-1].reason, bad[-1].silent
            if bad[-1].weight is Weight.MISS and weight is Weight.WEAK:
                self.reason += f" ({self._misses()} of the last {len(self._last)} probes)"


def _weight_of(verdict: Verdict) -> Weight:
    return next((weight for weight, named in VERDICTS.items() if named == verdict), Weight.WELL)
