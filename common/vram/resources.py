"""What a host has beside its cards (RAM, disk, CPU cores), leased by the same ledger: how much is promised, to whom, what fits.

    grantable = min(ceiling - promised, total - spare - others - promised) - kept,    ceiling = ceiling_fraction x total

`promised` sums, over the leases, the larger of what was leased and what the lease is measured to hold. `others` is what
everybody else uses: at each measurement it lies between what is used beyond all promises and what is used beyond all that is
known to be a lease's; within these bounds it stays what it was. What an ended lease used counts there until it is gone. So
bytes that a lease was promised and has not taken yet are kept for it, bytes that it took are not counted twice, and whoever
fills the host beside the leases lowers what may be granted. Cores are only promised: nobody who uses more of them takes
anything away for good.

`kept` is reserved for requests for which room was made, and nobody else sees it. Of several reservations the earlier is served
first; an earlier request that comes to want more than was kept for it finds that beside the later ones.

Doubt grants nothing: a tier that could not be measured fits only requests that want nothing of it. The account belongs to the
writer of one host's leases; it reads no clock, measures nothing and ends no lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from common.api.host_memory import HostMemory
from common.vram.amount import amount
from common.vram.cards import ProcessId
from common.vram.resource_tier import DEFAULT, NONE_HELD, ResourcePolicy, Shortage, Tier

MILLI: Final = 1_000


class Spare(NamedTuple):
    """Bytes and cores that a request could have; below zero by what others have or were promised beyond it."""

    ram_bytes: int
    disk_bytes: int
    cpu_cores: float


class HostAccount:
    """The RAM, disk and cores of one host, and the leases on them."""

    def __init__(
        self,
        ram_total_bytes: int = 0,
        disk_total_bytes: int = 0,
        cpu_cores: float = 0.0,
        policy: ResourcePolicy = DEFAULT,
    ) -> None:
        self._ram = Tier("host RAM", ram_total_bytes, policy, amount, bounded=True)
        self._disk = Tier("disk", disk_total_bytes, policy, amount, bounded=True)
        self._cpu = Tier("CPU", round(cpu_cores * MILLI), policy, _cores, bounded=not cpu_cores)
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

    def shortage(
        self, ram: int = 0, disk: int = 0, cpu: float = 0.0, lease_id: str = "", room: str = ""
    ) -> Shortage | None:
        """The first tier in which the request does not fit, with need, free and holders; None when it fits.

        With `lease_id` the request takes the place of what that lease has by now; less than that always fits. `room` is the
        request for which some may be kept.
        """
        wanted = ((self._ram, ram), (self._disk, disk), (self._cpu, round(cpu * MILLI)))
        for tier, need in wanted:
            if need and (short := tier.shortage(need, lease_id, room)) is not None:
                return short
        return None

    def spare(self, room: str = "") -> Spare | None:
        """What the request `room` could have by now, below zero by what others have or were promised beyond it.

        None where the host could not be measured.
        """
        if self._ram.problem:
            return None
        return Spare(self._ram.spare_for("", room), self._disk.spare_for("", room), self._cores_for(room))

    def _cores_for(self, room: str) -> float:
        return 0.0 if self._cpu.problem else self._cpu.spare_for("", room) / MILLI

    def keep(
        self, lease_id: str, ram: int = 0, disk: int = 0, cpu: float = 0.0, own: str = "", model: str = ""
    ) -> None:
        """Keeps so much for a request until `keep_nothing`: what it wants beyond what the lease `own`, which it wakes, has."""
        for tier, wanted in ((self._ram, ram), (self._disk, disk), (self._cpu, round(cpu * MILLI))):
            tier.keep(lease_id, model, max(0, wanted - tier.has(own)))

    def keep_nothing(self, lease_id: str) -> None:
        """Keeps nothing for the request any more."""
        self.keep(lease_id)

    def fits(self, ram: int = 0, disk: int = 0, cpu: float = 0.0, lease_id: str = "", room: str = "") -> str:
        """Why the request does not fit, or the empty string (see `shortage`)."""
        short = self.shortage(ram, disk, cpu, lease_id, room)
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
            ram_reserved_bytes=ram.kept,
            disk_total_bytes=disk.total,
            disk_ceiling_bytes=disk.ceiling,
            disk_leased_bytes=disk.leased,
            disk_available_bytes=disk.available,
            disk_grantable_bytes=disk.free,
            disk_reserved_bytes=disk.kept,
            cpu_total_cores=cpu.total / MILLI,
            cpu_ceiling_cores=cpu.ceiling / MILLI,
            cpu_leased_cores=cpu.leased / MILLI,
            cpu_reserved_cores=cpu.kept / MILLI,
            reason=f"RAM and disk {ram.problem}" if ram.problem else "",
        )


def _cores(milli: int) -> str:
    return f"{milli / MILLI:g} cores"
