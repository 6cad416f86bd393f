"""Whose the processes on a host's cards are: an owner's, by descent, by the cgroup of its container, or by what was seen before.

A process that was an owner's stays its owner's while that one leases: a child outlives its parent, leaves its session, or has
ended by the time that it is asked after. It reads /proc, and judges no measurement.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from common.gpu import cgroups, process_identity
from common.vram.cards import UNKNOWN_START, CardSample, ProcessId, ProcessUse

NO_CGROUPS: Final[Mapping[str, ProcessId]] = MappingProxyType({})


class Member(NamedTuple):
    """A process that is an owner's, beside itself: by descent, or as one of those `contained` in its cgroup."""

    start_time: int
    owner: ProcessId
    contained: bool = False


NO_MEMBERS: Final[Mapping[int, Member]] = MappingProxyType({})


class Families(NamedTuple):
    """The processes on the cards as these owners and their cgroups tell them apart; `members` by pid.

    Who is `gone` was on a card, and had ended when it was asked after.
    """

    owners: frozenset[ProcessId] = frozenset()
    owned_cgroups: Mapping[str, ProcessId] = NO_CGROUPS
    members: Mapping[int, Member] = NO_MEMBERS
    gone: frozenset[int] = frozenset()

    @property
    def tree(self) -> dict[int, int]:
        """The pid of each member and that of its owner, as the ledger wants it."""
        return {pid: member.owner.pid for pid, member in self.members.items()}

    def knew(self, owners: frozenset[ProcessId], owned_cgroups: Mapping[str, ProcessId]) -> bool:
        """Whether nobody is among these who was not when the processes were told apart."""
        return owners <= self.owners and owned_cgroups.items() <= self.owned_cgroups.items()


def told_apart(
    samples: Iterable[CardSample],
    owners: frozenset[ProcessId],
    owned_cgroups: Mapping[str, ProcessId] = NO_CGROUPS,
    before: Mapping[int, Member] = NO_MEMBERS,
) -> Families:
    """The families of these owners on the cards; `before` are the members that were known.

    A process is that of its nearest ancestor among `owners`; where it has none there, that of the owner in whose cgroup it is,
    and else whose it was before. This process owns nobody by descent, for all that it runs descends from it; a cgroup with it in
    is nobody's.
    """
    uses = {use.pid: use for sample in samples for use in sample.processes or ()} if owners else {}
    named = cgroups.claimable(owned_cgroups, os.getpid()) if uses and owned_cgroups else {}
    heads = frozenset(owner for owner in owners if owner.pid != os.getpid())
    containing = frozenset(named.values())
    members: dict[int, Member] = {}
    gone: set[int] = set()
    for pid in uses.keys() - {owner.pid for owner in owners}:
        lineage = process_identity.lineage(pid)
        earlier = before.get(pid)
        if (head := next((each for each in lineage if each in heads), None)) is not None:
            members[pid] = Member(uses[pid].start_time, head)
        elif named and (inside := cgroups.owner_of(pid, named)) is not None:
            members[pid] = Member(uses[pid].start_time, inside, contained=True)
        elif earlier is not None and _still(earlier, uses[pid], containing if earlier.contained else owners):
            members[pid] = earlier
        elif not lineage and uses[pid].start_time != UNKNOWN_START:
            gone.add(pid)
    return Families(owners, dict(owned_cgroups), members, frozenset(gone))


def _still(earlier: Member, use: ProcessUse, owners: frozenset[ProcessId]) -> bool:
    """Whether the process is the one that it was, of an owner that is one still."""
    return earlier.owner in owners and use.start_time in (earlier.start_time, UNKNOWN_START)
