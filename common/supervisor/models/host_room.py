"""Who goes for a model where its host's RAM, disk or cores are short: idle leases, of engines or agents, that hold some of that.

They are weighed as for room on a card (common/vram/eviction.py): those that have to leave a card for it anyway go first, then the
cheapest until it fits, and then each that turned out not to be needed stays. Never one in use, pinned, or of a higher priority
than the request. It ends nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from common.api.leases import Lease
from common.config.models import Needs
from common.vram.eviction import Resident, price
from common.vram.resources import Spare


class Amounts(msgspec.Struct, frozen=True):
    """Bytes of RAM and of disk, and cores."""

    ram: float
    disk: float
    cpus: float

    @property
    def short(self) -> bool:
        """Whether any of it is lacking."""
        return self.ram > 0 or self.disk > 0 or self.cpus > 0

    def less(self, lease: Lease) -> Amounts:
        """What is lacking once this lease has ended."""
        return Amounts(self.ram - lease.ram_bytes, self.disk - lease.disk_bytes, self.cpus - lease.cpu_cores)

    def eased_by(self, lease: Lease) -> bool:
        """Whether the end of this lease gives some of what is lacking."""
        held = ((self.ram, lease.ram_bytes), (self.disk, lease.disk_bytes), (self.cpus, lease.cpu_cores))
        return any(lacking > 0 and has > 0 for lacking, has in held)


def lacking(needs: Needs, spare: Spare, leases: Iterable[Lease], own: str = "") -> Amounts:
    """What the host lacks for these needs in place of what the lease `own` has, when all has gone that has to go already.

    `spare` is what the request could have by now.
    """
    found = Amounts(int(needs.ram) - spare.ram_bytes, int(needs.disk) - spare.disk_bytes, needs.cpus - spare.cpu_cores)
    wanted = Amounts(
        found.ram if needs.ram else 0.0, found.disk if needs.disk else 0.0, found.cpus if needs.cpus else 0.0
    )
    for lease in leases:
        if lease.state == "expiring" or lease.lease_id == own:
            wanted = wanted.less(lease)
    return wanted


def who_goes(
    needs: Needs,
    spare: Spare,
    leases: Sequence[Lease],
    priority: int,
    horizon_s: float,
    own: str = "",
    leaving: Collection[str] = (),
) -> list[Lease]:
    """Of these leases those that go so that the needs fit; none where they do already, or would not.

    `own` is the lease of the model itself, where it sleeps; `leaving` are those that have to leave a card for it.
    """
    left = lacking(needs, spare, leases, own)
    able = [lease for lease in leases if lease.lease_id != own and _may_go(lease, priority) and left.eased_by(lease)]
    chosen: list[Lease] = []
    for lease in sorted(able, key=lambda each: (each.lease_id not in leaving, _price(each, horizon_s), each.lease_id)):
        if left.short and left.eased_by(lease):
            chosen.append(lease)
            left = left.less(lease)
    return [] if left.short else _needed(chosen, left)


def _needed(chosen: list[Lease], spare: Amounts) -> list[Lease]:
    """The chosen without those, from the dearest down, that are not needed after all."""
    found = list(chosen)
    for lease in reversed(chosen):
        without = Amounts(spare.ram + lease.ram_bytes, spare.disk + lease.disk_bytes, spare.cpus + lease.cpu_cores)
        if not without.short:
            found.remove(lease)
            spare = without
    return found


def _may_go(lease: Lease, priority: int) -> bool:
    used = lease.in_use or lease.users > 0 or lease.state == "expiring"
    return not used and not lease.shares and not lease.pinned and lease.priority <= priority


def _price(lease: Lease, horizon_s: float) -> float:
    """As of one that returns the RAM that it holds."""
    weighed = Resident(
        lease.lease_id,
        lease.model,
        lease.config,
        max(1, lease.ram_bytes),
        lease.priority,
        lease.pinned,
        False,
        False,
        lease.idle_s,
        lease.gap_s,
        lease.load_s,
    )
    return price(weighed, horizon_s)
