"""Which card takes a request: feasible, rank, pick, and a reason for every card that does not.

Of the cards that are in question (the request may name a host or a card) and have room, the tightest fit is chosen; ties go
to the first host, then the first card. A request that no card in question could hold even when empty never fits and is
refused for good; any other waits. This module decides about the figures it is given and reserves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from common.api.leases import CardVerdict, LeasePlan
from common.errors import NoCapacity, NotFound, TandemError, TooLarge
from common.vram.amount import amount

NOT_ASKED = "not the card that was asked for"
KEPT = "kept for a request that has waited longer"
EXPLAINED = 16
"""On more cards than this, a grant explains only the card it chose; a refusal always explains every card."""


class Candidate(msgspec.Struct, frozen=True):
    """A card as placement sees it: bytes grantable now, bytes grantable when empty, and why it is closed (empty: open)."""

    host: str
    index: int
    uuid: str
    grantable_bytes: int
    capacity_bytes: int
    problem: str = ""

    @property
    def label(self) -> str:
        """The card as people name it: `mainpc:0`."""
        return f"{self.host}:{self.index}"


class Wish(msgspec.Struct, frozen=True):
    """What is to be placed; an empty `host` or `card_uuid` means any."""

    model: str
    need_bytes: int
    host: str = ""
    card_uuid: str = ""

    def names(self, card: Candidate) -> bool:
        """Whether the card is in question."""
        return (not self.host or card.host == self.host) and (not self.card_uuid or card.uuid == self.card_uuid)


class Choice(msgspec.Struct, frozen=True):
    """The outcome with its reason; `free_bytes` is the most that any card able to hold the request could grant now."""

    outcome: Literal["grant", "wait", "never"]
    card: Candidate | None
    free_bytes: int
    reason: str
    verdicts: list[CardVerdict]


def pick(wish: Wish, cards: Iterable[Candidate], kept: Collection[str] = ()) -> Candidate | None:
    """The tightest fit among open cards in question, or None. `kept` holds the uuids kept for others."""
    best: Candidate | None = None
    need, host, uuid = wish.need_bytes, wish.host, wish.card_uuid
    for card in cards:
        free = card.grantable_bytes
        if free < need or card.problem or (host and card.host != host) or (uuid and card.uuid != uuid):
            continue
        if card.uuid not in kept and (
            best is None or (free, card.host, card.index) < (best.grantable_bytes, best.host, best.index)
        ):
            best = card
    return best


def choose(
    wish: Wish,
    cards: Sequence[Candidate],
    kept: Collection[str] = (),
    *,
    missing: Mapping[str, str] = MappingProxyType({}),
) -> Choice:
    """What would happen to the request now, with the cards' verdicts.

    `missing` says of each host whose cards are not all known why that is; where one of them is in question, nothing is
    refused for good.
    """
    card = pick(wish, cards, kept)
    verdicts = [_verdict(wish, each, kept) for each in (cards if card is None or len(cards) <= EXPLAINED else (card,))]
    if card is not None:
        reason = f"{wish.model} needs {amount(wish.need_bytes)}; the tightest fit is {card.label}"
        return Choice("grant", card, card.grantable_bytes, reason, verdicts)
    asked = [each for each in cards if wish.names(each)]
    able = [each for each in asked if each.capacity_bytes >= wish.need_bytes]
    if able:
        most = max(able, key=lambda each: each.grantable_bytes)
        return Choice("wait", None, most.grantable_bytes, _shortage(wish, most, kept), verdicts)
    absent = [f"{host}: {why}" for host, why in missing.items() if wish.host in ("", host)]
    if absent:
        reason = f"{wish.model} needs {amount(wish.need_bytes)}; {'; '.join(absent)}"
        return Choice("wait", None, 0, reason, verdicts)
    return Choice("never", None, 0, _never(wish, asked), verdicts)


def lease_plan(wish: Wish, choice: Choice) -> LeasePlan:
    """The choice as the verb `plan` answers it."""
    return LeasePlan(
        outcome=choice.outcome,
        host=choice.card.host if choice.card else "",
        card_uuid=choice.card.uuid if choice.card else "",
        need_bytes=wish.need_bytes,
        free_bytes=choice.free_bytes,
        reason=choice.reason,
        cards=choice.verdicts,
    )


def refusal(wish: Wish, choice: Choice, retry_after_ms: int = 1_000, **details: Any) -> TandemError:
    """The error for a request that was not granted.

    `no_capacity` where it may fit later, `too_large` where no card could ever hold it, `not_found` where no card is in
    question at all. The details hold need, free and every card's verdict.
    """
    details |= {
        "need_bytes": wish.need_bytes,
        "free_bytes": choice.free_bytes,
        "cards": msgspec.to_builtins(choice.verdicts),
    }
    if choice.outcome != "never":
        return NoCapacity(choice.reason, retry_after_ms=retry_after_ms, **details)
    in_question = any(verdict.reason != NOT_ASKED for verdict in choice.verdicts)
    return TooLarge(choice.reason, **details) if in_question else NotFound(choice.reason, **details)


def _verdict(wish: Wish, card: Candidate, kept: Collection[str]) -> CardVerdict:
    reason = _why_not(wish, card, kept)
    return CardVerdict(
        host=card.host,
        card=card.index,
        card_uuid=card.uuid,
        feasible=not reason,
        grantable_bytes=card.grantable_bytes,
        reason=reason or f"fits, {amount(card.grantable_bytes - wish.need_bytes)} to spare",
    )


def _why_not(wish: Wish, card: Candidate, kept: Collection[str]) -> str:
    need, free, most = wish.need_bytes, card.grantable_bytes, card.capacity_bytes
    reasons = (
        (not wish.names(card), NOT_ASKED),
        (need > most, f"gives {amount(most)} at most, {amount(need)} needed"),
        (bool(card.problem), card.problem),
        (need > free, f"{amount(free)} free, {amount(need)} needed"),
        (card.uuid in kept, KEPT),
    )
    return next((reason for holds, reason in reasons if holds), "")


def _shortage(wish: Wish, card: Candidate, kept: Collection[str]) -> str:
    text = f"{wish.model} needs {amount(wish.need_bytes)}; {amount(card.grantable_bytes)} free on {card.label}"
    if card.problem:
        return f"{text} ({card.problem})"
    return f"{text} ({KEPT})" if card.grantable_bytes >= wish.need_bytes and card.uuid in kept else text


def _never(wish: Wish, asked: Sequence[Candidate]) -> str:
    need = f"{wish.model} needs {amount(wish.need_bytes)}"
    if asked:
        most = max(asked, key=lambda each: each.capacity_bytes)
        return f"{need}; the largest card in question, {most.label}, gives {amount(most.capacity_bytes)} at most"
    where = " ".join(filter(None, (wish.card_uuid, f"on {wish.host}" if wish.host else "")))
    return f"{need}; there is no card {where}".rstrip()
