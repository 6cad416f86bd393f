"""What looks at a card show of one owner whose memory is taken back; it judges nothing (common/vram/ladder.py does).

An owner's bytes are those of its processes: itself, its descendants, and whatever of them was seen before, for a child outlives
its parent. Bytes that vanish from the list of processes while the card's nameless bytes grow by as much have lost their name
and not their place: they count as the owner's still. An owner that is not listed while the card holds nameless bytes is hidden,
as in containers and under WSL; so is one whose process is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from common.vram.amount import MIB
from common.vram.cards import UNKNOWN_START, CardSample, ProcessId, ProcessUse
from common.vram.ladder import Looked

SLACK_BYTES: Final = 256 * MIB
"""Nameless bytes below this are the driver's own, and their growth is noise."""


class Sight:
    """One owner on one card, look after look; `members` are its processes so far."""

    def __init__(self, owner: ProcessId | None, card_uuid: str) -> None:
        self.members: set[ProcessId] = set() if owner is None else {owner}
        self._owner = owner
        self._card_uuid = card_uuid
        self._nameless: int | None = None
        self._listed = 0
        self._hidden = owner is None

    def look(self, samples: Sequence[CardSample], tree: Mapping[int, int], began_at: float) -> Looked:
        """What a look at all cards shows of it; `tree` maps descendants' pids to their owner's."""
        sample = next((one for one in samples if one.uuid == self._card_uuid), None)
        if sample is None or sample.problem:
            return Looked(began_at, None, None)
        return Looked(began_at, self._bytes(sample, tree), sample.free_bytes)

    def _bytes(self, sample: CardSample, tree: Mapping[int, int]) -> int | None:
        if sample.processes is None or self._owner is None:
            return None
        mine = list(self._mine(sample.processes, tree, self._owner))
        if any(use.used_bytes is None for use in mine):
            return None
        listed = sum(use.used_bytes or 0 for use in mine)
        known = sum(use.used_bytes or 0 for use in sample.processes)
        nameless = max(0, sample.total_bytes - sample.free_bytes - known)
        if self._nameless is None:
            self._nameless, self._hidden = nameless, not mine and nameless > SLACK_BYTES
        self._listed = max(self._listed, listed)
        self._hidden = self._hidden and not mine
        return None if self._hidden else listed + self._unnamed(nameless - self._nameless, self._listed - listed)

    def _unnamed(self, grown: int, vanished: int) -> int:
        """The bytes that vanished from the list and are held without a name."""
        return min(grown, vanished) if grown > SLACK_BYTES else 0

    def _mine(self, uses: Iterable[ProcessUse], tree: Mapping[int, int], owner: ProcessId) -> Iterable[ProcessUse]:
        pids = {member.pid: member.start_time for member in self.members}
        for use in uses:
            known = pids.get(use.pid)
            if known == use.start_time or (known is None and tree.get(use.pid) == owner.pid):
                if use.start_time != UNKNOWN_START:
                    self.members.add(ProcessId(use.pid, use.start_time))
                yield use
