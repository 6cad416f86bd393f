"""What a host did alone: decides when a separation begins and ends, and which deeds fall into it.

Deeds are counted by the host anyway; a separation is the difference between two counts, so nothing that is done has to know of
it. An open one outlives the supervisor: its row holds the deeds so far, and the next life adds its own. Nothing is decided by
these records; they tell people what happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from common.api.separations import Separation
from common.clock import timestamp
from common.store.protocol import Change
from common.store.records import Records

KEPT: Final = 50
"""Separations remembered, of all peers together; the oldest goes first."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One separation as it is stored; times are wall-clock seconds, `number` rises with each."""

    number: int
    peer: str
    began_at: float
    lasted_s: float
    reason: str
    deeds: dict[str, int]
    over: bool = False


SEPARATIONS: Final = Records("separations", Kept)


class Separations:
    """All separations of one host. `counts` are the deeds of this life of the supervisor so far, by name."""

    def __init__(self, former: Iterable[Kept] = ()) -> None:
        self._kept = {one.number: one for one in former}
        self._number = max(self._kept, default=0)
        self._open: dict[str, _Open] = {}
        self._resumed = {one.peer: one.number for one in self._kept.values() if not one.over}

    def knows(self, peer: str) -> bool:
        """Whether the last life of this host left a separation from `peer` that was not over: a peer never met is not lost."""
        return peer in self._resumed or peer in self._open

    def lost(self, peer: str, reason: str, now: float, wall: float, counts: Mapping[str, int]) -> list[Change]:
        """The peer cannot be reached from `now` on (monotonic seconds; `wall` is the same moment); what to store."""
        if peer in self._open:
            return []
        number = self._resumed.pop(peer, None)
        if number is None:
            self._number += 1
            number = self._number
            self._kept[number] = Kept(
                number=number, peer=peer, began_at=wall, lasted_s=0.0, reason=reason, deeds={}, over=False
            )
        before = self._kept[number]
        began = now - max(0.0, before.lasted_s, wall - before.began_at)
        self._open[peer] = _Open(number, began, dict(counts), before.deeds)
        return [*self._forget(), self._put(before)]

    def back(self, peer: str, now: float, counts: Mapping[str, int]) -> list[Change]:
        """The peer is reached again; what to store. One that was lost in a former life alone has come back meanwhile."""
        resumed = self._resumed.pop(peer, None)
        if resumed is not None:
            return [self._put(msgspec.structs.replace(self._kept[resumed], over=True))]
        if peer not in self._open:
            return []
        return [self._put(msgspec.structs.replace(self._so_far(self._open.pop(peer), now, counts), over=True))]

    def tick(self, now: float, counts: Mapping[str, int]) -> list[Change]:
        """Time has passed: what to store of those that last, so that a kill loses little."""
        return [self._put(self._so_far(one, now, counts)) for one in self._open.values()]

    def told(self, peer: str, limit: int, now: float, counts: Mapping[str, int]) -> list[Separation]:
        """The newest `limit` separations from `peer` (empty: any), newest first."""
        lasting = {one.number: self._so_far(one, now, counts) for one in self._open.values()}
        newest = sorted((self._kept | lasting).values(), key=lambda one: -one.number)
        return [_shown(one) for one in newest if peer in ("", one.peer)][:limit]

    def _so_far(self, one: _Open, now: float, counts: Mapping[str, int]) -> Kept:
        deeds = dict(one.before)
        for name, count in counts.items():
            done = count - one.counts.get(name, 0)
            if done > 0:
                deeds[name] = deeds.get(name, 0) + done
        return msgspec.structs.replace(self._kept[one.number], lasted_s=max(0.0, now - one.began), deeds=deeds)

    def _put(self, one: Kept) -> Change:
        self._kept[one.number] = one
        return SEPARATIONS.put(f"{one.number:012}", one)

    def _forget(self) -> list[Change]:
        lasting = {one.number for one in self._open.values()}
        old = [number for number in sorted(self._kept) if number not in lasting][: max(0, len(self._kept) - KEPT)]
        for number in old:
            del self._kept[number]
        return [SEPARATIONS.delete(f"{number:012}") for number in old]


class _Open(msgspec.Struct, frozen=True):
    """A separation that lasts: when it began on this life's clock, the counts then, and the deeds of former lives."""

    number: int
    began: float
    counts: dict[str, int]
    before: dict[str, int]


def _shown(one: Kept) -> Separation:
    return Separation(
        peer=one.peer,
        began_at=timestamp(one.began_at),
        ended_at=timestamp(one.began_at + one.lasted_s) if one.over else "",
        lasted_s=one.lasted_s,
        reason=one.reason,
        deeds=dict(sorted(one.deeds.items())),
    )
