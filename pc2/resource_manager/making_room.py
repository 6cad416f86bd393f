"""Where a request goes, where room is made for one that fits nowhere, what it would share, and how that is told: by the view.

The rules are the supervisors' own (common/vram/ranking.py): the tightest fit, else the card that costs least by its dearest
victim. A request for one card is told its card from what the view keeps ready; one for several, or for a card to itself while
others have to go from it, has every card ranked. Which leases go is then decided by the card's supervisor, by its own
measurements. It is pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from common.api.decisions import PlanLease
from common.api.leases import AcquireLease, LeaseProgress
from common.vram import ranking
from common.vram.placement import Candidate, Choice, Wish, picks
from common.vram.ranking import Ranked
from pc2.resource_manager.fleet import Fleet

NONE_BARRED: Final[Mapping[str, str]] = {}


def fitting(fleet: Fleet, wish: Wish, now: float, kept: Collection[str], barred: Mapping[str, str]) -> Candidate | None:
    """The card that takes the request as things are, the first of several; None where none does."""
    if wish.cards == 1:
        return fleet.fit(wish, now, kept, barred)
    return next(iter(picks(wish, fleet.candidates(now), kept, barred)), None)


def cheapest(
    fleet: Fleet, wish: Wish, priority: int, now: float, kept: Collection[str], barred: Mapping[str, str]
) -> Candidate | None:
    """The card where others go for the request at the least cost; None where that is enough nowhere."""
    if wish.cards == 1 and not wish.exclusive:
        found = fleet.room(wish, priority, now, kept, barred)
        return None if found is None else found.card
    best = ranked(fleet, wish, priority, now, kept, barred)
    return best[0].site.card if best and best[0].possible else None


def ranked(
    fleet: Fleet,
    wish: Wish,
    priority: int,
    now: float,
    kept: Collection[str] = (),
    barred: Mapping[str, str] = NONE_BARRED,
    only: Candidate | None = None,
) -> list[Ranked]:
    """The cards in question, or `only` one, best first, with who would go from each and why.

    Of a request for several only those of hosts that could give as many.
    """
    sites = fleet.sites(now, wish.need_bytes) if only is None else [fleet.site(only, now)]
    open_to = (site for site in sites if site.card.uuid not in kept and site.card.host not in barred)
    best = ranking.rank(wish.need_bytes, ranking.in_question(wish, open_to), priority, fleet.horizon.seconds)
    if wish.cards == 1 or only is not None:
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


def shared(fleet: Fleet, asked: AcquireLease | PlanLease, now: float, declined: Collection[str] = ()) -> Choice | None:
    """The choice to share a lease that lives, none of the `declined`; None where none does."""
    lease = fleet.sharable(asked.model, asked.config, asked.host, asked.card_uuid, now, declined)
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
