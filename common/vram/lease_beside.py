"""What a request takes of its host beside a card (RAM, disk, cores): whether it is there, and how it is kept for the request.

It is kept with the room that is made on a card, or by itself where others go for it, and ends as that does: when the request
is granted, withdrawn or late. Functions here decide and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from common.vram.lease_decision import Decision
from common.vram.lease_facts import HostReserved
from common.vram.lease_state import LeaseState
from common.vram.placement import Candidate
from common.vram.resource_tier import Shortage

NONE_BARRED: Final[Mapping[str, str]] = {}


class Wanted(Protocol):
    """A request, as far as the host beside its cards is concerned."""

    @property
    def ram_bytes(self) -> int:
        """Of the host's RAM."""
        ...

    @property
    def disk_bytes(self) -> int:
        """Of its disk."""
        ...

    @property
    def cpu_cores(self) -> float:
        """Of its cores."""
        ...


class Beside(msgspec.Struct, frozen=True):
    """So much of the host beside its cards."""

    ram_bytes: int = 0
    disk_bytes: int = 0
    cpu_cores: float = 0.0


NOTHING: Final = Beside()


def of(asked: Wanted) -> Beside:
    """What the request wants."""
    return Beside(asked.ram_bytes, asked.disk_bytes, asked.cpu_cores)


def shortage(state: LeaseState, asked: Wanted, lease_id: str, own: str = "") -> Shortage | None:
    """Of what there is too little for the request `lease_id`, in place of what the lease `own`, which it wakes, has of it."""
    return state.resources.shortage(asked.ram_bytes, asked.disk_bytes, asked.cpu_cores, own, lease_id)


def as_open(
    state: LeaseState, asked: Wanted, cards: Sequence[Candidate], lease_id: str, own: str = ""
) -> tuple[Sequence[Candidate], Mapping[str, str]]:
    """The cards as open as the host's RAM, disk and cores allow, or why they never could be."""
    short = shortage(state, asked, lease_id, own)
    if short is None:
        return cards, NONE_BARRED
    if short.never:
        return cards, {state.host: short.reason}
    return [msgspec.structs.replace(card, grantable_bytes=0, problem=short.reason) for card in cards], NONE_BARRED


def kept(asked: Beside, lease_id: str, model: str, until: float, own: str = "") -> tuple[HostReserved, ...]:
    """The fact that what the request wants is kept for it; none where it wants nothing."""
    if asked == NOTHING:
        return ()
    return (HostReserved(lease_id, model, asked.ram_bytes, asked.disk_bytes, asked.cpu_cores, until, own),)


def keep(state: LeaseState, asked: Wanted, lease_id: str, model: str, until: float, own: str = "") -> Decision:
    """Keeps it for a request for which others go; nothing for one that was granted meanwhile."""
    if lease_id in state.live or lease_id in state.past:
        return Decision()
    return Decision(facts=kept(of(asked), lease_id, model, until, own))
