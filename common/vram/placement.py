"""Which card takes a request: feasible, rank, pick, and a reason for every card that does not.

Of the cards that are in question (the request may name a host or a card) and have room, the tightest fit is chosen; ties go
to the first host, then the first card. A request for several cards takes them on one host, all or none: the host where
the least is free on them together. A card that one lease has to itself takes no other; a request that wants a card to itself
takes one without leases. Pinned leases may hold PIN_FRACTION of a card's capacity together.

A request that no card in question could hold even when empty never fits and is refused for good; any other waits. This module
decides about the figures it is given and reserves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from common.api.decisions import CardVerdict, LeasePlan, PlanLease, Victim
from common.api.leases import AcquireLease
from common.errors import NoCapacity, NotFound, TandemError, TooLarge
from common.vram.amount import amount

NOT_ASKED = "not the card that was asked for"
KEPT = "kept for a request that has waited longer"
TAKEN = "one lease has it to itself"
SHARED = "others lease it, and the request wants it to itself"
EXPLAINED = 16
"""On more cards than this, a grant explains only the card it chose; a refusal always explains every card."""
PIN_FRACTION: Final = 0.8
"""The share of a card's capacity that pinned leases may hold together."""
NONE: Final[Mapping[str, str]] = MappingProxyType({})
_SOONEST: Final = ("share", "grant", "evict", "wait", "never")


class Candidate(msgspec.Struct, frozen=True):
    """A card as placement sees it: bytes grantable now, bytes grantable when empty, and why it is closed (empty: open).

    `leases` live on it or have room reserved on it; `exclusive` when one of them has it to itself; `pinned_bytes` are pinned.
    """

    host: str
    index: int
    uuid: str
    grantable_bytes: int
    capacity_bytes: int
    problem: str = ""
    leases: int = 0
    exclusive: bool = False
    pinned_bytes: int = 0

    @property
    def label(self) -> str:
        """The card as people name it: `mainpc:0`; a host alone by its name."""
        return f"{self.host}:{self.index}" if self.uuid else self.host

    @property
    def pinnable_bytes(self) -> int:
        """What pinned leases may hold on it together."""
        return int(self.capacity_bytes * PIN_FRACTION)


class Wish(msgspec.Struct, frozen=True):
    """What is to be placed, `need_bytes` on each of `cards` cards of one host; an empty `host` or `card_uuid` means any."""

    model: str
    need_bytes: int
    host: str = ""
    card_uuid: str = ""
    cards: int = 1
    exclusive: bool = False
    pinned: bool = False

    @classmethod
    def of(cls, asked: AcquireLease | PlanLease) -> Wish:
        """What a request wants."""
        return cls(asked.model, asked.bytes, asked.host, asked.card_uuid, asked.cards, asked.exclusive, asked.pinned)

    def names(self, card: Candidate) -> bool:
        """Whether the card is in question; of several, the named one is among them."""
        return (not self.host or card.host == self.host) and (
            not self.card_uuid or card.uuid == self.card_uuid or self.cards > 1
        )

    def could_hold(self, card: Candidate) -> bool:
        """Whether the card, were it empty, has room for the request."""
        most = card.pinnable_bytes if self.pinned else card.capacity_bytes
        return self.need_bytes <= most and self.names(card)

    @property
    def need(self) -> str:
        """What it needs, as people read it: `10.0 GiB` or `10.0 GiB on each of 2 cards`."""
        need = amount(self.need_bytes)
        return need if self.cards == 1 else f"{need} on each of {self.cards} cards"


class Choice(msgspec.Struct, frozen=True):
    """The outcome with its reason; `free_bytes` is the most that any card able to hold the request could grant now.

    `cards` are all that were chosen, `card` the first of them. `seen` are the cards that were in the choice, `kept` those kept
    for others. `oversized` are hosts that are barred because the request wants more beside a card than they may ever lease.
    `victims` are what an eviction for the request would weigh, `share` the lease that it would join.
    """

    outcome: Literal["grant", "share", "evict", "wait", "never"]
    card: Candidate | None
    free_bytes: int
    reason: str
    wish: Wish
    seen: Sequence[Candidate]
    kept: Collection[str] = ()
    barred: Mapping[str, str] = NONE
    cards: tuple[Candidate, ...] = ()
    weighed: Mapping[str, CardVerdict] = MappingProxyType({})
    victims: Sequence[Victim] = ()
    share: str = ""
    oversized: Collection[str] = ()

    @property
    def too_large(self) -> bool:
        """Of a choice of `never`: whether that is for the request's size, and not for want of a card or of files."""
        if not self.wish.cards:
            return bool(self.oversized)
        able = (card for card in self.seen if self.wish.names(card))
        return any(card.host not in self.barred or card.host in self.oversized for card in able)

    @property
    def verdicts(self) -> list[CardVerdict]:
        """Why each card would or would not take the request; of a grant among many cards, only those chosen."""
        told = self.cards if self.cards and len(self.seen) > EXPLAINED else self.seen
        return [self.weighed.get(card.uuid) or self._verdict(card) for card in told]

    def _verdict(self, card: Candidate) -> CardVerdict:
        reason = _why_not(self.wish, card, self.kept, self.barred)
        return CardVerdict(
            host=card.host,
            card=card.index,
            card_uuid=card.uuid,
            feasible=not reason,
            grantable_bytes=card.grantable_bytes,
            reason=reason or f"fits, {amount(card.grantable_bytes - self.wish.need_bytes)} to spare",
        )


def pick(wish: Wish, cards: Iterable[Candidate], kept: Collection[str] = ()) -> Candidate | None:
    """The tightest fit among open cards in question, or None; the first of several. `kept` are the uuids kept for others."""
    if wish.cards > 1:
        return next(iter(picks(wish, cards, kept)), None)
    best: Candidate | None = None
    need, host, uuid = wish.need_bytes, wish.host, wish.card_uuid
    picky = wish.exclusive or wish.pinned
    least: float = inf
    for card in cards:
        free = card.grantable_bytes
        if (
            not need <= free <= least
            or card.problem
            or card.exclusive
            or (host and card.host != host)
            or (uuid and card.uuid != uuid)
            or (picky and not suits(wish, card))
        ):
            continue
        if card.uuid not in kept and (best is None or (free, card.host, card.index) < (least, best.host, best.index)):
            best, least = card, free
    return best


def picks(
    wish: Wish, cards: Iterable[Candidate], kept: Collection[str] = (), barred: Mapping[str, str] = NONE
) -> tuple[Candidate, ...]:
    """All the cards that the request would get, on one host; none where there are not enough on any."""
    if wish.cards == 1 and not barred:
        card = pick(wish, cards, kept)
        return () if card is None else (card,)
    by_host: dict[str, list[Candidate]] = {}
    for card in cards:
        if not _why_not(wish, card, kept, barred):
            by_host.setdefault(card.host, []).append(card)
    sets = [_tightest(wish, fits) for fits in by_host.values() if len(fits) >= wish.cards]
    whole = [each for each in sets if not wish.card_uuid or any(card.uuid == wish.card_uuid for card in each)]
    return min(whole, key=lambda each: (sum(card.grantable_bytes for card in each), each[0].host), default=())


def choose(
    wish: Wish,
    cards: Sequence[Candidate],
    kept: Collection[str] = (),
    *,
    missing: Mapping[str, str] = NONE,
    barred: Mapping[str, str] = NONE,
    oversized: Collection[str] = (),
) -> Choice:
    """What would happen to the request now, with the cards' verdicts.

    `missing` says of each host whose cards are not all known why that is; where one of them is in question, nothing is
    refused for good. `barred` says of hosts why they can never take the request, such as for want of the model's files;
    `oversized` are those of them that are too small for what it wants beside a card.
    """
    chosen = picks(wish, cards, kept, barred)
    if chosen:
        return granted(wish, cards, kept, barred, chosen)
    asked = [each for each in cards if wish.names(each)]
    able = [each for each in asked if wish.could_hold(each) and each.host not in barred]
    if _enough(wish, able):
        most = max(able, key=lambda each: each.grantable_bytes)
        reason = _shortage(wish, most, kept)
        return Choice("wait", None, most.grantable_bytes, reason, wish, cards, kept, barred)
    absent = [f"{host}: {why}" for host, why in missing.items() if wish.host in ("", host) and host not in barred]
    if absent:
        return Choice(
            "wait", None, 0, f"{wish.model} needs {wish.need}; {'; '.join(absent)}", wish, cards, kept, barred
        )
    reason = _never(wish, asked, barred)
    return Choice("never", None, 0, reason, wish, cards, kept, barred, oversized=oversized)


def granted(
    wish: Wish,
    cards: Sequence[Candidate],
    kept: Collection[str],
    barred: Mapping[str, str],
    chosen: tuple[Candidate, ...],
) -> Choice:
    """The choice of the cards that `picks` gave, as it is explained."""
    names = ", ".join(card.label for card in chosen)
    reason = f"{wish.model} needs {wish.need}; the tightest fit is {names}"
    return Choice("grant", chosen[0], chosen[0].grantable_bytes, reason, wish, cards, kept, barred, chosen)


def after_others(choice: Choice, verdicts: Iterable[CardVerdict]) -> Choice:
    """A choice to grant that tells of the other cards too where the request would fit once others went."""
    told = {each.card_uuid: each for each in verdicts if each.feasible and each.victims}
    return msgspec.structs.replace(choice, weighed=told)


def lease_plan(wish: Wish, choice: Choice, load_s: float = 0.0) -> LeasePlan:
    """The choice as the verb `plan` answers it."""
    return LeasePlan(
        outcome=choice.outcome,
        host=choice.card.host if choice.card else "",
        card_uuid=choice.card.uuid if choice.card else "",
        need_bytes=wish.need_bytes,
        free_bytes=choice.free_bytes,
        reason=choice.reason,
        cards=choice.verdicts,
        victims=list(choice.victims),
        share=choice.share,
        load_s=load_s,
    )


def soonest(plans: Iterable[LeasePlan]) -> LeasePlan:
    """The plan that grants soonest, else the one that waits, else the first."""
    return min(plans, key=lambda each: _SOONEST.index(each.outcome))


def refusal(wish: Wish, choice: Choice, retry_after_ms: int = 1_000, **details: Any) -> TandemError:
    """The error for a request that was not granted.

    `no_capacity` where it may fit later, `too_large` where no card, or no host beside its cards, could ever hold it,
    `not_found` where no card is in question at all, or none on a host that has the files. The details hold need, free and
    every card's verdict, `victims` where evictions were weighed, and `barred` where a host can never take it.
    """
    details |= {
        "need_bytes": wish.need_bytes,
        "free_bytes": choice.free_bytes,
        "cards": msgspec.to_builtins(choice.verdicts),
    }
    if choice.barred:
        details["barred"] = dict(choice.barred)
    if choice.victims:
        details["victims"] = msgspec.to_builtins(choice.victims)
    if choice.outcome != "never":
        return NoCapacity(choice.reason, retry_after_ms=retry_after_ms, **details)
    return TooLarge(choice.reason, **details) if choice.too_large else NotFound(choice.reason, **details)


def _why_not(wish: Wish, card: Candidate, kept: Collection[str], barred: Mapping[str, str]) -> str:
    need, free, most = wish.need_bytes, card.grantable_bytes, card.capacity_bytes
    if not wish.names(card):
        return NOT_ASKED
    if card.host in barred:
        return barred[card.host]
    if card.problem and not most:
        return card.problem
    if need > most:
        return f"gives {amount(most)} at most, {amount(need)} needed"
    if wish.pinned and not pins(wish, card):
        return _why_not_pinned(wish, card)
    if card.problem:
        return card.problem
    if card.exclusive:
        return TAKEN
    if need > free:
        return f"{amount(free)} free, {amount(need)} needed"
    if wish.exclusive and card.leases:
        return SHARED
    return KEPT if card.uuid in kept else ""


def suits(wish: Wish, card: Candidate) -> bool:
    """Whether the request goes together with those that lease the card: it wants it to itself, or to be pinned there."""
    return not (wish.exclusive and card.leases) and (not wish.pinned or pins(wish, card))


def pins(wish: Wish, card: Candidate) -> bool:
    """Whether the request may be pinned on the card beside what is pinned there."""
    return card.pinned_bytes + wish.need_bytes <= card.pinnable_bytes


def _why_not_pinned(wish: Wish, card: Candidate) -> str:
    return (
        f"{amount(card.pinned_bytes)} are pinned already and {amount(wish.need_bytes)} needed; "
        f"of {amount(card.capacity_bytes)} at most {amount(card.pinnable_bytes)} may be"
    )


def _tightest(wish: Wish, fits: Iterable[Candidate]) -> tuple[Candidate, ...]:
    order = sorted(fits, key=lambda card: (card.uuid != wish.card_uuid, card.grantable_bytes, card.index))
    return tuple(order[: wish.cards])


def _enough(wish: Wish, able: Sequence[Candidate]) -> bool:
    """Whether one host has as many of the able cards as the request wants, the named one among them."""
    if wish.cards == 1:
        return bool(able)
    hosts = [card.host for card in able]
    return any(
        hosts.count(card.host) >= wish.cards for card in able if not wish.card_uuid or card.uuid == wish.card_uuid
    )


def _shortage(wish: Wish, card: Candidate, kept: Collection[str]) -> str:
    text = f"{wish.model} needs {wish.need}; {amount(card.grantable_bytes)} free on {card.label}"
    why = card.problem
    if not why and card.grantable_bytes >= wish.need_bytes:
        why = _why_not(wish, card, kept, NONE)
    return f"{text} ({why})" if why else text


def _never(wish: Wish, asked: Sequence[Candidate], barred: Mapping[str, str]) -> str:
    need = f"{wish.model} needs {wish.need}"
    open_to = [each for each in asked if each.host not in barred]
    if open_to and wish.cards > 1:
        able = sum(wish.could_hold(each) for each in open_to)
        return f"{need}; of the cards in question {able} could give that, and not enough of them on one host"
    if open_to:
        most = max(open_to, key=lambda each: each.capacity_bytes)
        gives = f"gives {amount(most.capacity_bytes)} at most"
        pins = f", of which {amount(most.pinnable_bytes)} may be pinned" if wish.pinned else ""
        return f"{need}; the largest card in question, {most.label}, {gives}{pins}"
    if asked:
        return f"{need}; {'; '.join(f'{host}: {why}' for host, why in barred.items())}"
    where = " ".join(filter(None, (wish.card_uuid, f"on {wish.host}" if wish.host else "")))
    return f"{need}; there is no card {where}".rstrip()
