"""Which card a request should go to when evictions may make room for it.

An open card with room and an idle loader comes first, and of those the tightest fit. Else the card where the request costs
least, in seconds:

    cost = price of the dearest that has to go x (GiB needed)^0.75 + seconds of loading already queued there

Cards are compared by their dearest victim, never by the sum over victims: a sum prefers ending one model that is wanted to
ending several that nobody wants. What cannot take the request even then comes last, with the reason.

It ranks and explains; placement's own questions (closed cards, hosts without the files) are answered before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from common.api.decisions import CardVerdict
from common.vram.amount import amount
from common.vram.eviction import EvictionPlan, Resident, size, victims
from common.vram.placement import Candidate, Wish, pins


class Site(msgspec.Struct, frozen=True):
    """An open card in question: who is on it, and the seconds of loading that go on and are queued there."""

    card: Candidate
    residents: Sequence[Resident] = ()
    queued_load_s: float = 0.0


class Ranked(msgspec.Struct, frozen=True):
    """A site with what it would give up, and what the request costs there (`cost_s`)."""

    site: Site
    need_bytes: int
    plan: EvictionPlan
    cost_s: float

    @property
    def possible(self) -> bool:
        """Whether the card can take the request, after evictions if need be."""
        return self.plan.enough

    @property
    def has_room(self) -> bool:
        """Whether the card can take it without any."""
        return self.plan.need_bytes == 0

    @property
    def reason(self) -> str:
        """Why the card stands where it stands, in a sentence."""
        if not self.possible:
            return self.plan.reason
        queued = f", {self.site.queued_load_s:.0f} s of loading are queued" if self.site.queued_load_s else ""
        if self.has_room:
            return f"fits, {amount(self.site.card.grantable_bytes - self.need_bytes)} to spare{queued}"
        return f"{self.plan.reason}, {self.plan.lost_s:.1f} s of loading lost{queued}"

    @property
    def verdict(self) -> CardVerdict:
        """The card as receipts and plans show it."""
        card = self.site.card
        return CardVerdict(
            host=card.host,
            card=card.index,
            card_uuid=card.uuid,
            feasible=self.possible,
            grantable_bytes=card.grantable_bytes,
            reason=self.reason,
            victims=[] if self.has_room else self.plan.victims,
            price=self.plan.dearest,
        )


def in_question(wish: Wish, sites: Iterable[Site]) -> list[Site]:
    """Of open cards those that could come to take the request, each with the room that it finds there.

    A pin that the card's budget for pins has no room for is not helped by evictions. Of a card that one lease is to have, or
    has had, to itself there is only what all others give up.
    """
    return [_found(wish, site) for site in sites if could_take(wish, site.card)]


def could_take(wish: Wish, card: Candidate) -> bool:
    """Whether an open card could come to take the request, if enough of those who may go went."""
    return wish.could_hold(card) and (not wish.pinned or pins(wish, card))


def rank(
    need_bytes: int, sites: Iterable[Site], priority: int, horizon_s: float, *, draining: bool = False
) -> list[Ranked]:
    """The sites, best first; the same ones in another order come out alike."""
    ranked = [_weighed(need_bytes, site, priority, horizon_s, draining) for site in sites]
    return sorted(ranked, key=_place)


def cost_s(dearest: float, need_bytes: int, queued_load_s: float) -> float:
    """What a request costs on a card, in seconds: its bytes at the price of the dearest that goes, and the loads before it."""
    return dearest * size(need_bytes) + queued_load_s


def _found(wish: Wish, site: Site) -> Site:
    if not (wish.exclusive or site.card.exclusive):
        return site
    left = min(site.card.grantable_bytes, wish.need_bytes - sum(each.bytes for each in site.residents))
    return msgspec.structs.replace(site, card=msgspec.structs.replace(site.card, grantable_bytes=left))


def _weighed(need_bytes: int, site: Site, priority: int, horizon_s: float, draining: bool) -> Ranked:
    missing = max(0, need_bytes - site.card.grantable_bytes)
    plan = victims(missing, site.residents, priority, horizon_s, draining=draining)
    return Ranked(site, need_bytes, plan, cost_s(plan.dearest, need_bytes, site.queued_load_s))


def _place(ranked: Ranked) -> tuple[int, float, int, str, int]:
    site = ranked.site
    left = site.card.grantable_bytes + ranked.plan.freed_bytes - ranked.need_bytes
    if not ranked.possible:
        return 2, 0.0, -left, site.card.host, site.card.index
    if ranked.has_room and site.queued_load_s == 0 and not site.card.exclusive:
        return 0, 0.0, left, site.card.host, site.card.index
    return 1, ranked.cost_s, left, site.card.host, site.card.index
