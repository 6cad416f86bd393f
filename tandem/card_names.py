"""Which card `--card` means: its UUID or how that begins, HOST:INDEX as `tandem gpus` shows it, or INDEX on a lone host.

It decides among the cards that it is shown and asks nobody. Indexes are a host's own and change with its cards, so what is leased
is always leased by UUID.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from common.api.gpus import Card
from common.errors import Conflict, NotFound

_WHOLE: Final = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def is_whole(text: str) -> bool:
    """Whether it says all of a UUID, so that nobody need be asked which card it is."""
    return _WHOLE.fullmatch(text) is not None


def meant(text: str, cards: Sequence[Card], missing: Mapping[str, str]) -> Card:
    """The one of `cards` that `text` means; `missing` says whose cards could not be had, and why.

    NotFound where it is none of them, Conflict where it may be several; both list them.
    """
    found: dict[str, Card] = {}
    for card in sorted(_matching(text, cards), key=lambda card: not card.schedulable):
        found.setdefault(card.card_uuid, card)  # a card that two supervisors see is leased by one of them
    if len(found) > 1:
        mend = "say which with HOST:INDEX, or with more of its UUID"
        raise Conflict(f"card {text!r} may be {_listed(list(found.values()), ' or ')}", mend=mend)
    if not found:
        silent = "".join(f"; {host} could not be asked: {why}" for host, why in missing.items())
        there = f"there are {_listed(cards, ', ')}" if cards else "there are no cards"
        raise NotFound(f"no card {text!r}; {there}{silent}")
    return next(iter(found.values()))


def _matching(text: str, cards: Sequence[Card]) -> list[Card]:
    host, colon, index = text.rpartition(":")
    if colon:
        return [card for card in cards if (card.host, str(card.card)) == (host, index)]
    numbered = [card for card in cards if str(card.card) == text]
    start = text.lower()
    return numbered or [card for card in cards if card.card_uuid.lower().startswith((start, f"gpu-{start}"))]


def _listed(cards: Sequence[Card], between: str) -> str:
    return between.join(f"{card.host}:{card.card} {card.card_uuid}" for card in cards)
