"""One resource of a host that is leased and kept for requests: how much of it is promised, and what that leaves for whom.

How it is counted, and what the figures mean, is the account's to say (common/vram/resources.py). It reads no clock, measures
nothing and ends no lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

NONE_HELD: Final[Mapping[str, int]] = MappingProxyType({})
NAMED_HOLDERS: Final = 4
"""So many of those who hold the most are named in a refusal."""


class ResourcePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs: what share of a tier may be leased at all, and what share is left alone whoever uses the rest."""

    ceiling_fraction: float = 0.8
    spare_fraction: float = 0.05


DEFAULT: Final = ResourcePolicy()


class Holder(msgspec.Struct, frozen=True):
    """A lease that holds some of a tier; `amount` in bytes, or in thousandths of a core."""

    lease_id: str
    model: str
    amount: int


class Shortage(msgspec.Struct, frozen=True):
    """Why a request does not fit: amounts in bytes, of `CPU` in thousandths of a core; `never` when an empty host would not do.

    `free` is what could be granted now, `holders` are the leases that hold the most, largest first.
    """

    resource: str
    need: int
    free: int
    ceiling: int
    others: int
    holders: tuple[Holder, ...]
    never: bool
    reason: str


class Tier:
    """One resource of the host; `lingering` is what ended leases may not have given back yet."""

    def __init__(
        self, name: str, total: int, policy: ResourcePolicy, shown: Callable[[int], str], bounded: bool
    ) -> None:
        self.name = name
        self.shown = shown
        self.leased = 0
        self.available = 0
        self.problem = "has not been measured yet" if bounded else ""
        self._policy = policy
        self.kept = 0
        self._leases: dict[str, tuple[str, int]] = {}
        self._rooms: dict[str, tuple[str, int]] = {}
        self._held: Mapping[str, int] = NONE_HELD
        self._used = self._known = self._beyond = self._strangers = self._lingering = 0
        self.resize(total)

    def resize(self, total: int) -> None:
        """There is so much of it in all."""
        self.total = total
        self.ceiling = int(total * self._policy.ceiling_fraction)
        self._usable = total - int(total * self._policy.spare_fraction)

    @property
    def others(self) -> int:
        """What is used and is no lease's."""
        return self._strangers + self._lingering

    @property
    def free(self) -> int:
        """What may be promised now."""
        return self.free_for("")

    def free_for(self, own: str, room: str = "") -> int:
        """What the lease `own` could have in all, in place of what it has, with what is kept for the request `room`."""
        return 0 if self.problem else max(0, self.spare_for(own, room))

    def spare_for(self, own: str, room: str) -> int:
        """The same as last measured; below zero by what others have or were promised beyond it."""
        mine, kept = self.has(own), self._rooms.get(room, ("", 0))[1]
        left = min(self.ceiling, self._usable - self.others) - self.leased - self._beyond + mine
        ahead = 0
        for lease_id, (_, amount_kept) in self._rooms.items():
            if lease_id == room:
                break
            ahead += amount_kept
        return min(left - ahead, max(kept + mine, left - (self.kept - kept)))

    def has(self, lease_id: str) -> int:
        """What the lease was promised."""
        return self._leases.get(lease_id, ("", 0))[1]

    def keep(self, lease_id: str, model: str, wanted: int) -> None:
        """Keeps so much for a request; one for which some is kept stays where it is among the others. 0 keeps nothing."""
        self.kept += wanted - self._rooms.get(lease_id, ("", 0))[1]
        if wanted:
            self._rooms[lease_id] = (model, wanted)
        else:
            self._rooms.pop(lease_id, None)

    def put(self, lease_id: str, model: str, wanted: int) -> None:
        """Has the lease be promised `wanted` from now on; 0 ends that, and what it had used stays counted until it is gone."""
        _, before = self._leases.pop(lease_id, ("", 0))
        held = self._held.get(lease_id)
        self.leased += wanted - before
        if before and held is not None:
            self._beyond -= max(0, held - before)
            self._known -= held
        if wanted:
            self._leases[lease_id] = (model, wanted)
        if wanted and held is not None:
            self._beyond += max(0, held - wanted)
            self._known += held
        elif before > wanted:
            left = before - wanted if held is None else held
            self._lingering = max(0, min(self._lingering + left, self._used - self._known - self._strangers))

    def measure(self, total: int, available: int, held: Mapping[str, int]) -> None:
        """Takes in a look; `held` is what leases, of which that is known, really hold."""
        self.resize(total)
        self.available, self.problem, self._held = min(max(0, available), total), "", held
        self._used = total - self.available
        self._known = self._beyond = silent = 0
        for lease_id, (_, wanted) in self._leases.items():
            self._known += (holds := held.get(lease_id, 0))
            self._beyond += max(0, holds - wanted)
            silent += 0 if lease_id in held else wanted
        strange = self._used - self._known
        self._lingering = max(0, min(self._lingering, strange - silent - self._strangers))
        least, most = strange - silent - self._lingering, strange - self._lingering
        self._strangers = max(0, min(max(self._strangers, least), most))

    def measure_again(self, available: int) -> None:
        """The same with another figure of what is available; a tier that was not measured stays so."""
        if not self.problem:
            self.measure(self.total, available, self._held)

    def shortage(self, wanted: int, own: str, room: str) -> Shortage | None:
        """Why `wanted` does not fit in place of what the lease `own` has; None when it does, or nothing is wanted."""
        free = self.free_for(own, room)
        if wanted <= free or wanted <= self.has(own):
            return None
        holders, keepers = _largest(self._leases, own), _largest(self._rooms, room)
        never = not self.problem and wanted > self.ceiling
        reason = self._reason(wanted, free, holders, keepers, never)
        return Shortage(
            self.name, wanted, free, self.ceiling, self.others, tuple(holders[:NAMED_HOLDERS]), never, reason
        )

    def _reason(self, wanted: int, free: int, holders: list[Holder], keepers: list[Holder], never: bool) -> str:
        need = f"{self.shown(wanted)} of {self.name} needed"
        if self.problem:
            return f"{need}, which {self.problem}"
        limit = f"{self.shown(self.ceiling)} of {self.shown(self.total)} may be leased"
        if never:
            return f"{need}; {limit}"
        parts = [f"{self.shown(free)} free", limit]
        if holders:
            parts.append(f"leased: {self._named(holders)}")
        if keepers:
            parts.append(f"kept for requests: {self._named(keepers)}")
        if self.others:
            parts.append(f"used by others: {self.shown(self.others)}")
        return f"{need}; {'; '.join(parts)}"

    def _named(self, holders: list[Holder]) -> str:
        named = [f"{holder.model or holder.lease_id} {self.shown(holder.amount)}" for holder in holders[:NAMED_HOLDERS]]
        rest = len(holders) - len(named)
        return ", ".join(named) + (f" and {rest} more" if rest else "")


def _largest(amounts: Mapping[str, tuple[str, int]], but: str) -> list[Holder]:
    """Who has so much, largest first, without that one."""
    found = [Holder(lease_id, model, n) for lease_id, (model, n) in amounts.items() if lease_id != but]
    return sorted(found, key=lambda holder: -holder.amount)
