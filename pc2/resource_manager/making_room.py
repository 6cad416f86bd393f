"""Where room is made for a request that fits nowhere, what it would share, and how both are told: pure, by the planner's view.

The rules are the supervisors' own (common/vram/ranking.py): the card that costs least by its dearest victim. Which leases go is
then decided by the card's supervisor, by its own measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from common.api.leases import AcquireLease, LeaseProgress, PlanLease
from common.vram import ranking
from common.vram.placement import Candidate, Choice, Wish
from common.vram.ranking import Ranked, Site
from pc2.resource_manager.fleet import Fleet


def ranked(wish: Wish, sites: Sequence[Site], priority: int, horizon_s: float) -> list[Ranked]:
    """The cards in question, best first. Of a request for several only those of hosts that could give as many."""
    fit = [_site(wish, site) for site in sites if wish.could_hold(site.card)]
    best = ranking.rank(wish.need_bytes, fit, priority, horizon_s)
    if wish.cards == 1:
        return best
    able = [each.site.card.host for each in best if each.possible]
    return [each for each in best if able.count(each.site.card.host) >= wish.cards]


def weighed(choice: Choice, room: Sequence[Ranked]) -> Choice:
    """A choice to wait, with what evictions would do: `evict` where that is enough."""
    verdicts = {each.site.card.uuid: each.verdict for each in room}
    if not (room and room[0].possible):
        victims = room[0].plan.victims if room else []
        return msgspec.structs.replace(choice, weighed=verdicts, victims=victims)
    first = room[0]
    reason = f"{choice.wish.model} needs {choice.wish.need}; on {first.site.card.label} {first.reason}"
    card, victims = first.site.card, first.plan.victims
    return msgspec.structs.replace(
        choice, outcome="evict", card=card, cards=(card,), reason=reason, weighed=verdicts, victims=victims
    )


def refused(choice: Choice, room: Sequence[Ranked]) -> Choice:
    """A refusal for now, with every lease that was weighed, and what waiting would have brought."""
    told = weighed(choice, room)
    if told.outcome != "evict":
        return told
    reason = f"{choice.reason}; with wait_s room can be made: on {room[0].site.card.label} {room[0].reason}"
    return msgspec.structs.replace(told, outcome="wait", card=None, cards=(), reason=reason)


def shared(fleet: Fleet, asked: AcquireLease | PlanLease, now: float) -> Choice | None:
    """The choice to share a lease that lives; None where none does."""
    lease = fleet.sharable(asked.model, asked.config, asked.host, asked.card_uuid, now)
    if lease is None:
        return None
    card = Candidate(lease.host, lease.card, lease.card_uuid, 0, 0)
    reason = f"{asked.model} is leased already: joins {lease.lease_id} on {card.label}"
    return Choice("share", card, 0, reason, Wish.of(asked), (), cards=(card,), share=lease.lease_id)


def progress(wish: Wish, room: Ranked, waited_s: float) -> LeaseProgress:
    """What the caller is told while others go for it."""
    return LeaseProgress(
        position=1,
        need_bytes=wish.need_bytes,
        free_bytes=max(0, room.site.card.grantable_bytes),
        waited_s=waited_s,
        reason=f"room is being made on {room.site.card.label}: {room.reason}",
    )


def _site(wish: Wish, site: Site) -> Site:
    """The card as the request finds it: one that a lease is to have, or has had, to itself has only what all others give up."""
    if not (wish.exclusive or site.card.exclusive):
        return site
    left = min(site.card.grantable_bytes, wish.need_bytes - sum(each.bytes for each in site.residents))
    return msgspec.structs.replace(site, card=msgspec.structs.replace(site.card, grantable_bytes=left))
