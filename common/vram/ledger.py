"""What may be granted on a card: the account drawn up from one measurement and the leases on that card.

    grantable = min(measured free, total - sum of max(leased, measured) - strangers - nameless) - guard band

Grouping. Leases of one owner process are counted together against what that process and its descendants hold, so bytes
that are both leased and measured count once. A lease without an owner process counts in full, and whatever process it
then starts is a stranger.

Nameless bytes are those that the card holds and no listed process accounts for: the driver's own, and all of them where
NVML hides processes (containers, WSL). Leases of which nothing is seen may explain nameless bytes, but only those above
`base_bytes`, the nameless bytes there were when the lease was granted, and above `lingering_bytes`, what leases of that
kind left behind when they ended. What they do not explain counts as held.

Quarantined bytes are those of an evicted lease whose owner would not let go of them. They count while they are seen, under the
owner's name and beside whatever else it leases, and promise nothing.

Doubt closes the card. A failed probe, a measurement that is too old, a card in ill health, or nameless bytes that grew by more
than the slack between two measurements make it unschedulable with the reason; nothing here ever reads doubt as free memory. No
figure goes below zero. The ledger neither grants nor evicts, and it never touches a stranger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from common.api.gpus import Stranger
from common.vram.amount import MIB, amount
from common.vram.cards import UNKNOWN_START, CardSample, ProcessId


class LedgerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of the account.

    The guard band is max(guard_floor_bytes, guard_fraction x total). A measurement older than `stale_s` seconds closes
    its card. Nameless growth above `growth_slack_bytes` between two measurements freezes it until one shows none. The leases
    on a card that was lost for `lost_grace_s` seconds end.
    """

    guard_fraction: float = 0.01
    guard_floor_bytes: int = 256 * MIB
    stale_s: float = 5.0
    growth_slack_bytes: int = 256 * MIB
    lost_grace_s: float = 30.0


DEFAULT: Final = LedgerPolicy()


class Claim(msgspec.Struct, frozen=True):
    """A lease as the ledger counts it; `owner` is None where no process of this host is pinned.

    A `quarantined` one has ended: its bytes are what its owner still held.
    """

    lease_id: str
    bytes: int
    owner: ProcessId | None
    base_bytes: int
    pinned: bool = False
    exclusive: bool = False
    quarantined: bool = False


class Share(NamedTuple):
    """What a lease is seen to hold; `verified` False where NVML cannot tell."""

    measured_bytes: int
    verified: bool


UNSEEN: Final = Share(0, False)


class Holding(NamedTuple):
    """What one owner leased on the card in all, and what it was seen to hold there."""

    leased_bytes: int
    measured_bytes: int


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A card's account at its last measurement; `problem` empty means schedulable.

    `nameless_bytes` are held by no listed process; `base_bytes` are those of them that no lease explains, living or
    ended: what a lease granted now finds there. `free_bytes` are as measured, `measured_bytes` what the leases' owners are seen
    to hold. `holdings` are what each owner leased and holds, by its last lease. `room_bytes` is what grantable is made
    from: below zero where more is held and promised than there is.
    """

    grantable_bytes: int
    room_bytes: int
    free_bytes: int
    leased_bytes: int
    measured_bytes: int
    strangers: tuple[Stranger, ...]
    nameless_bytes: int
    base_bytes: int
    shares: Mapping[str, Share]
    holdings: Mapping[str, Holding]
    problem: str


def capacity(total_bytes: int, policy: LedgerPolicy = DEFAULT) -> int:
    """The most that could ever be granted on a card of this size: all but the guard band."""
    guard = max(policy.guard_floor_bytes, int(total_bytes * policy.guard_fraction))
    return max(0, total_bytes - guard)


def staleness(sampled_at: float, now: float, policy: LedgerPolicy = DEFAULT) -> str:
    """Why a measurement is too old to be believed, or the empty string."""
    age = now - sampled_at
    return f"last measured {age:.1f} s ago" if age > policy.stale_s else ""


def account(
    sample: CardSample,
    claims: Iterable[Claim],
    tree: Mapping[int, int],
    policy: LedgerPolicy = DEFAULT,
    base_before: int | None = None,
    lingering_bytes: int = 0,
) -> Account:
    """Draws up the account of one card.

    `claims` are the leases on this card in the order of their grants. `tree` maps the pid of each descendant of a
    pinned owner to that owner's pid, the nearest owner where they nest. `base_before` is the previous measurement's
    `base_bytes`, None where there was none. `lingering_bytes` are nameless bytes of leases that ended.
    """
    held = _Holdings(claims)
    if sample.problem:
        return _closed(sample.problem, held)
    for use in sample.processes or ():
        held.see(use.pid, use.start_time, use.name, use.used_bytes, tree)
    free = min(max(0, sample.free_bytes), sample.total_bytes)
    nameless = max(0, sample.total_bytes - free - held.known_bytes)
    open_bytes, unexplained = held.unseen(nameless, lingering_bytes)
    counted = held.counted_bytes() + max(open_bytes + unexplained, nameless)
    base = max(0, max(unexplained, nameless - open_bytes) - lingering_bytes)
    visible = sample.processes is not None and nameless <= unexplained + policy.growth_slack_bytes
    problem = sample.health or _growth(base, base_before, policy)
    room = min(free, sample.total_bytes - counted) - (sample.total_bytes - capacity(sample.total_bytes, policy))
    return Account(
        grantable_bytes=0 if problem else max(0, room),
        room_bytes=room,
        free_bytes=free,
        leased_bytes=held.leased_bytes,
        measured_bytes=held.measured_bytes(),
        strangers=tuple(held.strangers),
        nameless_bytes=nameless,
        base_bytes=base,
        shares=held.shares(visible),
        holdings=held.holdings(),
        problem=problem,
    )


def _closed(problem: str, held: _Holdings) -> Account:
    return Account(
        grantable_bytes=0,
        room_bytes=0,
        free_bytes=0,
        leased_bytes=held.leased_bytes,
        measured_bytes=0,
        strangers=(),
        nameless_bytes=0,
        base_bytes=0,
        shares=held.shares(visible=False),
        holdings={},
        problem=problem,
    )


def _growth(base: int, before: int | None, policy: LedgerPolicy) -> str:
    if before is None or base - before <= policy.growth_slack_bytes:
        return ""
    return f"{amount(base - before)} appeared that no process and no lease accounts for"


@dataclass(slots=True)
class _Group:
    """The leases of one owner, and what its processes are seen to hold."""

    claims: list[Claim] = field(default_factory=list)
    leased_bytes: int = 0
    quarantined_bytes: int = 0
    measured_bytes: int = 0
    hidden: bool = False

    @property
    def opaque(self) -> bool:
        """Whether nameless bytes may be this group's."""
        return self.hidden or self.measured_bytes == 0

    @property
    def leases_measured_bytes(self) -> int:
        """What is seen beyond the quarantined bytes."""
        return max(0, self.measured_bytes - self.quarantined_bytes)

    @property
    def counted_bytes(self) -> int:
        """What is surely held or promised; of an opaque group only what is seen."""
        if self.opaque:
            return self.measured_bytes
        return self.measured_bytes + max(0, self.leased_bytes - self.leases_measured_bytes)

    @property
    def open_bytes(self) -> int:
        """Promised bytes, and bytes that would not go, of which nothing is seen."""
        return max(0, self.leased_bytes + self.quarantined_bytes - self.measured_bytes)

    def shares(self, pinned: bool, visible: bool) -> Iterable[tuple[str, Share]]:
        """The measured bytes spread over the leases in the order of grants; what exceeds them all is the last one's."""
        verified = pinned and not self.hidden and (visible or not self.opaque)
        left = self.measured_bytes
        for claim in self.claims:
            part = left if claim is self.claims[-1] else min(left, claim.bytes)
            left -= part
            yield claim.lease_id, Share(part, verified)


class _Holdings:
    """Who holds what on one card, while its account is drawn up."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self.leased_bytes = 0
        self.known_bytes = 0
        self.strangers: list[Stranger] = []
        self._groups: dict[ProcessId | None, _Group] = {}
        for claim in claims:
            group = self._groups.setdefault(claim.owner, _Group())
            group.claims.append(claim)
            if claim.quarantined:
                group.quarantined_bytes += claim.bytes
            else:
                group.leased_bytes += claim.bytes
                self.leased_bytes += claim.bytes
        self._pinned = {owner.pid: owner for owner in self._groups if owner is not None}

    def see(self, pid: int, start_time: int, name: str, used_bytes: int | None, tree: Mapping[int, int]) -> None:
        """Puts one process's bytes to its owner's leases, or among the strangers."""
        self.known_bytes += used_bytes or 0
        owner = self._pinned.get(pid)
        if owner is None:
            owner = self._pinned.get(tree.get(pid, -1))
        elif start_time not in (
            owner.start_time,
            UNKNOWN_START,
        ):  # who ends while the card is looked at has no start any more
            owner = None
        if owner is None:
            self.strangers.append(Stranger(pid=pid, name=name, bytes=used_bytes or 0))
            return
        group = self._groups[owner]
        group.measured_bytes += used_bytes or 0
        group.hidden |= used_bytes is None

    def counted_bytes(self) -> int:
        """What is surely held or promised, leaving out the leased bytes of which nothing is seen."""
        return sum(group.counted_bytes for group in self._groups.values()) + sum(each.bytes for each in self.strangers)

    def measured_bytes(self) -> int:
        """What the leases' owners are seen to hold."""
        return sum(group.measured_bytes for group in self._groups.values())

    def holdings(self) -> dict[str, Holding]:
        """Per owner with a lease what it leased and what it is seen to hold, by its last lease."""
        return {
            leases[-1]: Holding(group.leased_bytes, group.leases_measured_bytes)
            for owner, group in self._groups.items()
            if owner is not None and (leases := [claim.lease_id for claim in group.claims if not claim.quarantined])
        }

    def unseen(self, nameless: int, lingering: int) -> tuple[int, int]:
        """The leased bytes of which nothing is seen, and the nameless bytes that are surely not those leases'."""
        opaque = [group for group in self._groups.values() if group.opaque]
        open_bytes = sum(group.open_bytes for group in opaque)
        base = max((claim.base_bytes for group in opaque for claim in group.claims), default=nameless)
        return open_bytes, min(nameless, base + lingering)

    def shares(self, visible: bool) -> dict[str, Share]:
        """Per lease id what it is seen to hold."""
        return {
            lease_id: share
            for owner, group in self._groups.items()
            for lease_id, share in group.shares(owner is not None, visible)
        }
