"""What looks at the cards show of one owner whose memory is taken back; it judges nothing (common/vram/ladder.py does).

An owner's bytes are those of its processes: itself, its descendants, and whatever of them was seen before, for a child outlives
its parent. Bytes that vanish from the list of processes while the card's nameless bytes grow by as much have lost their name
and not their place: they count as the owner's still. An owner that is not listed while the card holds nameless bytes is hidden,
as in containers and under WSL; so is one whose process is not known. Of several cards the figures are summed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from common.vram.amount import MIB
from common.vram.cards import UNKNOWN_START, CardSample, ProcessId, ProcessUse
from common.vram.ladder import Looked

SLACK_BYTES: Final = 256 * MIB
"""Nameless bytes below this are the driver's own, and their growth is noise."""


class _Place:
    """One card, look after look: the nameless bytes it had at first, and the most that the owner was listed with."""

    def __init__(self) -> None:
        self._nameless: int | None = None
        self._listed = 0
        self._hidden = False

    def bytes(self, sample: CardSample, mine: Sequence[ProcessUse]) -> int | None:
        """What the owner holds; None where that is hidden."""
        if sample.processes is None or any(use.used_bytes is None for use in mine):
            return None
        listed = sum(use.used_bytes or 0 for use in mine)
        known = sum(use.used_bytes or 0 for use in sample.processes)
        nameless = max(0, sample.total_bytes - sample.free_bytes - known)
        if self._nameless is None:
            self._nameless, self._hidden = nameless, not mine and nameless > SLACK_BYTES
        self._listed = max(self._listed, listed)
        self._hidden = self._hidden and not mine
        grown = nameless - self._nameless
        unnamed = min(grown, self._listed - listed) if grown > SLACK_BYTES else 0
        return None if self._hidden else listed + unnamed


class Sight:
    """One owner on its cards; `members` are its processes so far, and whoever knows of more adds them."""

    def __init__(self, owner: ProcessId | None, card_uuids: Sequence[str]) -> None:
        self.members: set[ProcessId] = set() if owner is None else {owner}
        self._owner = owner
        self._places = {uuid: _Place() for uuid in card_uuids}

    def look(self, samples: Sequence[CardSample], tree: Mapping[int, int], began_at: float) -> Looked:
        """What a look at all cards shows of it; `tree` maps descendants' pids to their owner's."""
        mine = {sample.uuid: sample for sample in samples if sample.uuid in self._places and not sample.problem}
        if len(mine) < len(self._places):
            return Looked(began_at, None, None)
        held = [self._places[uuid].bytes(sample, self._uses(sample, tree)) for uuid, sample in mine.items()]
        hidden = self._owner is None or None in held
        free_bytes = sum(sample.free_bytes for sample in mine.values())
        return Looked(began_at, None if hidden else sum(part or 0 for part in held), free_bytes)

    def _uses(self, sample: CardSample, tree: Mapping[int, int]) -> list[ProcessUse]:
        """What its processes hold on the card; those not known before are remembered."""
        starts = {member.pid: member.start_time for member in self.members}
        found: list[ProcessUse] = []
        for use in sample.processes or ():
            started = starts.get(use.pid)
            ours = self._owner is not None and tree.get(use.pid) == self._owner.pid
            known = started is not None and use.start_time in (
                started,
                UNKNOWN_START,
            )  # it may have ended during the look
            if known or (started is None and ours):
                found.append(use)
        self.members |= {ProcessId(use.pid, use.start_time) for use in found if use.start_time != UNKNOWN_START}
        return found
