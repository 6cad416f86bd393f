"""Bytes of leases that ended since the last look at the cards: said to be free, and not yet seen to be.

A lease may hold bytes that no look has counted yet, and a process that was killed, or gave its lease back too early, holds them
still. So what a lease promised stays out of reach until a look that began after its end; then the measurement speaks. It
decides about figures and reserves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from common.vram.placement import Candidate


class _Ended(NamedTuple):
    at: float
    card_uuid: str
    bytes: int


class Settling:
    """The ends that no look has followed; times in seconds of the host's monotonic clock."""

    def __init__(self) -> None:
        self._ended: list[_Ended] = []

    def __bool__(self) -> bool:
        return bool(self._ended)

    def ended(self, card_uuid: str, lease_bytes: int, at: float) -> None:
        """A lease of so many bytes on the card ended."""
        self._ended.append(_Ended(at, card_uuid, lease_bytes))

    def looked(self, began_at: float) -> None:
        """A look that began then is in: earlier ends are settled by what it measured."""
        self._ended = [end for end in self._ended if end.at >= began_at]

    def concerns(self, card_uuid: str) -> bool:
        """Whether leases ended on the card since the last look at it began: it shows their owners as they were before."""
        return any(end.card_uuid == card_uuid for end in self._ended)

    def sure(self, cards: Sequence[Candidate]) -> list[Candidate]:
        """The cards with only what is surely free."""
        return [_with(card, max(0, card.grantable_bytes - self._unsettled(card.uuid))) for card in cards]

    def hoped(self, cards: Sequence[Candidate]) -> list[Candidate]:
        """The cards with the most that the next look may show to be free."""
        return [
            _with(card, min(card.capacity_bytes, card.grantable_bytes + self._unsettled(card.uuid))) for card in cards
        ]

    def unsure(self, cards: Iterable[Candidate], need_bytes: int) -> frozenset[str]:
        """The cards that would have room for `need_bytes` only with bytes that are not settled."""
        return frozenset(
            card.uuid
            for card in cards
            if card.grantable_bytes - self._unsettled(card.uuid) < need_bytes <= card.grantable_bytes
        )

    def _unsettled(self, card_uuid: str) -> int:
        return sum(end.bytes for end in self._ended if end.card_uuid == card_uuid)


def _with(card: Candidate, grantable_bytes: int) -> Candidate:
    return msgspec.structs.replace(card, grantable_bytes=grantable_bytes)
