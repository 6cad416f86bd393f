"""How often one identity may come: a token bucket for each, so that no one spends another's.

The Generic Cell Rate Algorithm (ITU-T I.371, annex A): one number per identity, the theoretical arrival time. Identities
are bounded; the one not heard of for longest is forgotten first, and an identity that owes nothing loses nothing by it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from msgspec import Meta, Struct


class RateSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The knobs of the rate limit. In any span, admitted cost <= burst + per_s * seconds, for each identity."""

    per_s: Annotated[float, Meta(gt=0, le=10_000_000, description="cost per second and identity")] = 100_000.0
    burst: Annotated[float, Meta(ge=1, le=10_000_000, description="cost at once")] = 20_000.0
    identities: Annotated[int, Meta(ge=1, le=1_000_000, description="identities remembered")] = 10_000


class RateLimit:
    """The buckets of all identities; `now` is monotonic seconds."""

    __slots__ = ("_arrivals", "_burst", "_burst_s", "_identities", "_per_cost_s")

    def __init__(self, settings: RateSettings) -> None:
        self._per_cost_s = 1.0 / settings.per_s
        self._burst = settings.burst
        self._burst_s = settings.burst / settings.per_s
        self._identities = settings.identities
        self._arrivals: OrderedDict[str, float] = OrderedDict()

    def admit(self, identity: str, now: float, cost: float = 1.0) -> float | None:
        """None: it may come. Otherwise the seconds after which it may; a refusal costs nothing.

        A cost above the burst is charged as a whole burst, for otherwise it could never come.
        """
        arrivals = self._arrivals
        arrival = arrivals.get(identity, now)
        if arrival < now:
            arrival = now
        arrival += (cost if cost < self._burst else self._burst) * self._per_cost_s
        over_s = arrival - now - self._burst_s
        if over_s > 1e-6:  # below that, rounding of the clock's floats would refuse one who waited as told
            return over_s
        arrivals[identity] = arrival
        arrivals.move_to_end(identity)
        if len(arrivals) > self._identities:
            arrivals.popitem(last=False)
        return None

    def __len__(self) -> int:
        return len(self._arrivals)
