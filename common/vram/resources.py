"""What a host has beside its cards (RAM, disk, CPU cores), leased by the same ledger: how much is promised, to whom, what fits.

    grantable = min(ceiling - promised, total - spare - others - promised),    ceiling = ceiling_fraction x total

`promised` sums, over the leases, the larger of what was leased and what the lease is measured to hold. `others` is what
everybody else uses: at each measurement it lies between what is used beyond all promises and what is used beyond all that is
known to be a lease's; within these bounds it stays what it was. What an ended lease used counts there until it is gone. So
bytes that a lease was promised and has not taken yet are kept for it, bytes that it took are not counted twice, and whoever
fills the host beside the leases lowers what may be granted. Cores are only promised: nobody who uses more of them takes
anything away for good.

Doubt grants nothing: a tier that could not be measured fits only requests that want nothing of it. The account belongs to the
writer of one host's leases; it reads no clock, measures nothing and ends no lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from common.api.host_memory import HostMemory
from common.vram.amount import amount
from common.vram.cards import ProcessId

NONE_HELD: Final[Mapping[str, int]] = MappingProxyType({})
MILLI: Final = 1_000
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


class _Tier:
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
        self._leases: dict[str, tuple[str, int]] = {}
        self._held: Mapping[str, int] = NONE_HELD
        self._used = self._known = self._beyond = self._strangers = self._lingering = 0
        self.resize(total)

    def resize(self, total: int) -> None:
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

    def free_for(self, own: str) -> int:
        """What the lease `own` could have in all, in place of what it has."""
        if self.problem:
            return 0
        mine = self._leases.get(own, ("", 0))[1]
        return max(0, min(self.ceiling, self._usable - self.others) - self.leased - self._beyond + mine)

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

    def shortage(self, wanted: int, own: str) -> Shortage | None:
        """Why `wanted` does not fit in place of what the lease `own` has; None when it does, or nothing is wanted."""
        free = self.free_for(own)
        if wanted <= free or wanted <= self._leases.get(own, ("", 0))[1]:
            return None
        holders = [Holder(lease_id, model, n) for lease_id, (model, n) in self._leases.items() if lease_id != own]
        holders.sort(key=lambda holder: -holder.amount)
        never = not self.problem and wanted > self.ceiling
        reason = self._reason(wanted, free, holders, never)
        return Shortage(
            self.name, wanted, free, self.ceiling, self.others, tuple(holders[:NAMED_HOLDERS]), never, reason
        )

    def _reason(self, wanted: int, free: int, holders: list[Holder], never: bool) -> str:
        need = f"{self.shown(wanted)} of {self.name} needed"
        if self.problem:
            return f"{need}, which {self.problem}"
        limit = f"{self.shown(self.ceiling)} of {self.shown(self.total)} may be leased"
        if never:
            return f"{need}; {limit}"
        parts = [f"{self.shown(free)} free", limit]
        if holders:
            parts.append(f"leased: {self._named(holders)}")
        if self.others:
            parts.append(f"used by others: {self.shown(self.others)}")
        return f"{need}; {'; '.join(parts)}"

    def _named(self, holders: list[Holder]) -> str:
        named = [f"{holder.model or holder.lease_id} {self.shown(holder.amount)}" for holder in holders[:NAMED_HOLDERS]]
        rest = len(holders) - len(named)
        return ", ".join(named) + (f" and {rest} more" if rest else "")


class HostAccount:
    """The RAM, disk and cores of one host, and the leases on them."""

    def __init__(
        self,
        ram_total_bytes: int = 0,
        disk_total_bytes: int = 0,
        cpu_cores: float = 0.0,
        policy: ResourcePolicy = DEFAULT,
    ) -> None:
        self._ram = _Tier("host RAM", ram_total_bytes, policy, amount, bounded=True)
        self._disk = _Tier("disk", disk_total_bytes, policy, amount, bounded=True)
        self._cpu = _Tier("CPU", round(cpu_cores * MILLI), policy, _cores, bounded=not cpu_cores)
        self._ram_of: dict[str, int] = {}

    def measure(
        self,
        *,
        ram_total_bytes: int,
        ram_available_bytes: int,
        disk_total_bytes: int,
        disk_available_bytes: int,
        cpu_cores: float = 0.0,
        held_ram: Mapping[str, int] = NONE_HELD,
    ) -> None:
        """Takes one look at the host; `cpu_cores` 0: as many as were known.

        `held_ram` says, of the leases for which it is known, the RAM that they really hold (see `by_lease`).
        """
        self._ram.measure(ram_total_bytes, ram_available_bytes, held_ram)
        self._disk.measure(disk_total_bytes, disk_available_bytes, NONE_HELD)
        if cpu_cores:
            self._cpu.resize(round(cpu_cores * MILLI))
            self._cpu.problem = ""

    def ram_now(self, available_bytes: int) -> None:
        """Takes in what RAM is available at a moment between two looks; what each lease holds is as the last look had it."""
        self._ram.measure_again(available_bytes)

    def by_lease(self, held: Mapping[ProcessId, int], owned: Mapping[ProcessId, Iterable[str]]) -> dict[str, int]:
        """What owners are seen to hold, spread over their leases of RAM in order; what exceeds them all is the last one's."""
        spread: dict[str, int] = {}
        for owner, left in held.items():
            mine = [lease_id for lease_id in owned.get(owner, ()) if self._ram_of.get(lease_id)]
            for lease_id in mine:
                spread[lease_id] = left if lease_id == mine[-1] else min(left, self._ram_of[lease_id])
                left -= spread[lease_id]
        return spread

    def unmeasured(self, problem: str) -> None:
        """The host could not be looked at (`problem`: why): RAM and disk are granted to nobody until it can."""
        self._ram.problem = self._disk.problem = f"could not be measured: {problem}"

    def shortage(self, ram: int = 0, disk: int = 0, cpu: float = 0.0, lease_id: str = "") -> Shortage | None:
        """The first tier in which the request does not fit, with need, free and holders; None when it fits.

        With `lease_id` the request takes the place of what that lease has by now; less than that always fits.
        """
        wanted = ((self._ram, ram), (self._disk, disk), (self._cpu, round(cpu * MILLI)))
        for tier, need in wanted:
            if need and (short := tier.shortage(need, lease_id)) is not None:
                return short
        return None

    def fits(self, ram: int = 0, disk: int = 0, cpu: float = 0.0, lease_id: str = "") -> str:
        """Why the request does not fit, or the empty string (see `shortage`)."""
        short = self.shortage(ram, disk, cpu, lease_id)
        return "" if short is None else short.reason

    def parks(self, lease_id: str, weights_bytes: int) -> str:
        """Why a lease's weights do not fit into host RAM beside what it has there already, or the empty string."""
        why = self.fits(ram=weights_bytes + self._ram_of.get(lease_id, 0), lease_id=lease_id)
        return f"cannot be parked: {why}" if why else ""

    def put(self, lease_id: str, ram: int = 0, disk: int = 0, cpu: float = 0.0, model: str = "") -> None:
        """Counts a lease, or counts it anew with other figures (parked, brought back); judges nothing."""
        if not (ram or disk or cpu or lease_id in self._ram_of):
            return
        self._ram_of[lease_id] = ram
        self._ram.put(lease_id, model, ram)
        self._disk.put(lease_id, model, disk)
        self._cpu.put(lease_id, model, round(cpu * MILLI))

    def drop(self, lease_id: str) -> None:
        """Counts a lease no longer; one that has nothing here is no error."""
        if self._ram_of.pop(lease_id, None) is not None:
            for tier in (self._ram, self._disk, self._cpu):
                tier.put(lease_id, "", 0)

    def view(self, host: str) -> HostMemory:
        """The account as the lease verbs show it."""
        ram, disk, cpu = self._ram, self._disk, self._cpu
        return HostMemory(
            host=host,
            ram_total_bytes=ram.total,
            ram_ceiling_bytes=ram.ceiling,
            ram_leased_bytes=ram.leased,
            ram_available_bytes=ram.available,
            ram_grantable_bytes=ram.free,
            ram_others_bytes=ram.others,
            disk_total_bytes=disk.total,
            disk_ceiling_bytes=disk.ceiling,
            disk_leased_bytes=disk.leased,
            disk_available_bytes=disk.available,
            disk_grantable_bytes=disk.free,
            cpu_total_cores=cpu.total / MILLI,
            cpu_ceiling_cores=cpu.ceiling / MILLI,
            cpu_leased_cores=cpu.leased / MILLI,
            reason=f"RAM and disk {ram.problem}" if ram.problem else "",
        )


def _cores(milli: int) -> str:
    return f"{milli / MILLI:g} cores"
