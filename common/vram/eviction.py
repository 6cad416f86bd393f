"""Which residents of a card go so that a request fits, and what that costs.

A resident is a lease on one card. Its loss is the seconds of loading that its going is expected to cost: the chance
that it is wanted within the horizon, times the seconds of its load, times the weight of its priority. Its price is that
loss by GiB^0.75, which lets large models go sooner than their loss alone would.

Victims go in the order of their price until the request fits; then, from the dearest down, each that turned out not to
be needed is put back. Never one that is pinned, of a higher priority than the request, already expiring, or in use. A
request that has waited too long may have residents in use *drained*: those go last, and only what uses them ends them.

This file weighs and chooses. It marks nothing, ends nothing and measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from common.api.decisions import Victim
from common.api.words import DEFAULT_PRIORITY
from common.vram.amount import GIB, amount
from common.vram.demand import want

SIZE_POWER: Final = 0.75
DOUBLING_POINTS: Final = 25.0
"""Points of priority that double what a resident's loss counts."""


class Resident(msgspec.Struct, frozen=True):
    """A lease on a card as an eviction weighs it; `idle_s` since its last use, `gap_s` the smoothed time between uses.

    `bytes` are those that its going returns on this card; `load_s` how long loading it again takes on this host.
    """

    lease_id: str
    model: str
    config: str
    bytes: int
    priority: int
    pinned: bool
    in_use: bool
    expiring: bool
    idle_s: float
    gap_s: float
    load_s: float


class EvictionPlan(msgspec.Struct, frozen=True):
    """What one card would give up for a request; `enough` says whether the request fits then.

    `chosen` go, cheapest first; `spared` were chosen at first and put back; the request asked for `priority`, and
    `draining` says whether residents in use were in question. When it is not enough, nothing is chosen.
    """

    need_bytes: int
    enough: bool
    chosen: tuple[Resident, ...]
    spared: tuple[Resident, ...]
    residents: Sequence[Resident]
    priority: int
    horizon_s: float
    draining: bool

    @property
    def freed_bytes(self) -> int:
        """The bytes that the chosen hold."""
        return sum(resident.bytes for resident in self.chosen)

    @property
    def dearest(self) -> float:
        """The price of the dearest that goes; 0 where none does."""
        return price(self.chosen[-1], self.horizon_s) if self.chosen else 0.0

    @property
    def lost_s(self) -> float:
        """The seconds of load that the evictions are expected to cost together, priorities left aside."""
        return sum(want(each.gap_s, each.idle_s, self.horizon_s) * each.load_s for each in self.chosen)

    @property
    def victims(self) -> list[Victim]:
        """Every resident that was weighed, those in question first by price, each with what became of it and why."""
        order = sorted(self.residents, key=lambda each: (bool(self._why_not(each)), _order(each, self.horizon_s)))
        return [self._victim(resident) for resident in order]

    @property
    def reason(self) -> str:
        """The plan in a sentence."""
        if self.enough:
            names = ", ".join(f"{each.model} ({amount(each.bytes)})" for each in self.chosen)
            return f"{names} would go" if names else "nothing has to go"
        open_to = sum(each.bytes for each in self.residents if not self._why_not(each))
        return f"{amount(self.need_bytes)} more needed; {amount(open_to)} could be had by evictions"

    def _why_not(self, resident: Resident) -> str:
        return why_not(resident, self.priority, self.draining)

    def _victim(self, resident: Resident) -> Victim:
        chosen, put_back = resident in self.chosen, resident in self.spared
        return Victim(
            lease_id=resident.lease_id,
            model=resident.model,
            bytes=resident.bytes,
            priority=resident.priority,
            idle_s=resident.idle_s,
            want=want(resident.gap_s, resident.idle_s, self.horizon_s),
            load_s=resident.load_s,
            price=price(resident, self.horizon_s),
            chosen=chosen,
            put_back=put_back,
            reason=self._why_not(resident) or self._fate(resident, chosen, put_back),
        )

    def _fate(self, resident: Resident, chosen: bool, put_back: bool) -> str:
        if chosen:
            return "drains: goes when its use ends" if resident.in_use else "the cheapest that makes room"
        if put_back:
            return "not needed in the end: put back"
        return "dearer than those that go" if self.enough else "its bytes would not be enough"


def weight(priority: int) -> float:
    """What a resident's loss counts: 1 at the default priority, doubled every DOUBLING_POINTS above it."""
    return math.pow(2.0, (priority - DEFAULT_PRIORITY) / DOUBLING_POINTS)


@lru_cache(maxsize=16_384)
def size(bytes: int) -> float:
    """GiB^0.75, by which losses are divided."""
    return math.pow(max(bytes, 1) / GIB, SIZE_POWER)


@lru_cache(maxsize=16_384)
def stake(bytes: int, load_s: float, priority: int) -> float:
    """The price of a resident that is wanted for sure; what returns no byte is dear beyond all others."""
    return load_s * weight(priority) / size(bytes)


def price(resident: Resident, horizon_s: float) -> float:
    """The seconds of load that its going is expected to cost, by the weight of its priority and by GiB^0.75."""
    wanted = want(resident.gap_s, resident.idle_s, horizon_s)
    return wanted * stake(resident.bytes, resident.load_s, resident.priority)


def why_not(resident: Resident, priority: int, draining: bool = False) -> str:
    """Why the resident may not go for a request of this priority; empty where it may."""
    if resident.expiring:
        return "expiring already"
    if resident.pinned:
        return "pinned"
    if resident.priority > priority:
        return f"priority {resident.priority} is above the request's {priority}"
    if resident.in_use and not draining:
        return "in use"
    return "" if resident.bytes > 0 else "holds no bytes here"


def victims(
    need_bytes: int, residents: Iterable[Resident], priority: int, horizon_s: float, *, draining: bool = False
) -> EvictionPlan:
    """Who goes so that `need_bytes` more come free on the card; the plan explains itself also where that is not enough.

    With `draining` residents in use are in question too, after all idle ones. The same residents, in whatever order,
    give the same choice.
    """
    weighed = tuple(residents)
    if need_bytes <= 0:
        return EvictionPlan(need_bytes, True, (), (), weighed, priority, horizon_s, draining)
    taken: list[Resident] = []
    missing = need_bytes
    for *_, resident in sorted(_eligible(weighed, priority, horizon_s, draining)):
        taken.append(resident)
        missing -= resident.bytes
        if missing <= 0:
            chosen, spared = _put_back(taken, -missing)
            return EvictionPlan(need_bytes, True, chosen, spared, weighed, priority, horizon_s, draining)
    return EvictionPlan(need_bytes, False, (), (), weighed, priority, horizon_s, draining)


def _eligible(
    residents: Sequence[Resident], priority: int, horizon_s: float, draining: bool
) -> Iterator[tuple[bool, float, str, int, Resident]]:
    """Those whom `why_not` lets go, each behind its place in the order."""
    for number, each in enumerate(residents):
        if not (
            each.expiring
            or each.pinned
            or each.priority > priority
            or (each.in_use and not draining)
            or each.bytes <= 0
        ):
            yield *_order(each, horizon_s), number, each


def _put_back(taken: Sequence[Resident], surplus: int) -> tuple[tuple[Resident, ...], tuple[Resident, ...]]:
    """Those needed and those not, of victims in the order of price that free `surplus` bytes too many."""
    chosen: list[Resident] = []
    spared: list[Resident] = []
    for resident in reversed(taken):
        if resident.bytes <= surplus:
            spared.append(resident)
            surplus -= resident.bytes
        else:
            chosen.append(resident)
    return tuple(reversed(chosen)), tuple(reversed(spared))


def _order(resident: Resident, horizon_s: float) -> tuple[bool, float, str]:
    return resident.in_use, price(resident, horizon_s), resident.lease_id
