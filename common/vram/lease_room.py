"""Room for a request that does not fit: which leases of this host go for it, and the bytes that are kept for it meanwhile.

    fits already, with what is on its way    the bytes are reserved
    fits when leases go                      these expire, all at once, and the bytes are reserved
    else                                     refused, with every lease that was weighed and its price

A request may come again and is answered as before, as long as what goes for it is enough. Where it no longer is (a stranger took
some, a victim would not let go), more leases go. Leases in use go only where they are to be *drained*: nobody new is let
in, and they are evicted when their last use ends. Functions here decide and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from common.api.decisions import CardVerdict, Decided, Victim
from common.api.supervisor import MakeRoom, RoomPromised
from common.api.words import Timestamp
from common.errors import Conflict, NotFound, Unavailable
from common.vram import lease_beside, lease_evictions, lease_view, placement, ranking
from common.vram.cards import ProcessId
from common.vram.demand import want
from common.vram.lease_beside import Beside
from common.vram.lease_decision import Decision, Instruction
from common.vram.lease_facts import Expiring, Fact, LeaseRecord, Reserved, Unreserved
from common.vram.lease_state import LeaseState, key_of
from common.vram.placement import Candidate, Choice, Wish
from common.vram.ranking import Ranked, Site

NOTHING_QUEUED: Final[Mapping[str, float]] = {}
PATIENCE_S: Final = 30.0
"""How long what was made free for a request is kept, after the last time that way was made for it."""
WEIGHED: Final = 16
"""Of more cards than these, only those that are likeliest to cost little are weighed at first."""


class Need(msgspec.Struct, frozen=True):
    """A request for which room is to be made.

    `asleep` is a lease of its own that it wakes; that never goes for it, nor do those that would go with `owner`, its process.
    `beside` is what it wants of the host beside its cards, which is kept for it too.
    """

    lease_id: str
    wish: Wish
    priority: int
    patience_s: float
    draining: bool = False
    asleep: str = ""
    owner: ProcessId | None = None
    beside: Beside = lease_beside.NOTHING


def make_room(state: LeaseState, asked: MakeRoom, now: float, at: Timestamp) -> Decision:
    """Has leases go from the named card until the bytes are free for the lease id, and keeps them for it."""
    if not state.epoch_open:
        return Decision(reply=Unavailable(f"{state.host} has not opened a fence epoch yet", retry_after_ms=200))
    if asked.lease_id in state.live:
        return Decision(reply=RoomPromised(victims=[], within_s=0.0))
    if asked.lease_id in state.past:
        why = state.past[asked.lease_id].lease.why
        return Decision(reply=Conflict(f"lease {asked.lease_id} has ended: {why}", lease_id=asked.lease_id))
    card = state.book.candidate(asked.card_uuid, now, asked.lease_id)
    if card is None:
        return Decision(reply=NotFound(f"{state.host} knows no card {asked.card_uuid}", card_uuid=asked.card_uuid))
    wish = Wish(asked.model, asked.bytes, state.host, card.uuid, 1, asked.exclusive)
    cards, never = lease_beside.as_open(state, asked, [card], asked.lease_id)
    if never:
        return Decision(reply=placement.refusal(wish, placement.choose(wish, cards, barred=never, oversized=never)))
    need = Need(asked.lease_id, wish, asked.priority, asked.patience_s, beside=lease_beside.of(asked))
    return make(state, need, cards, now, at)


def make(
    state: LeaseState,
    need: Need,
    cards: Sequence[Candidate],
    now: float,
    at: Timestamp,
    kept: Collection[str] = (),
    queued: Mapping[str, float] = NOTHING_QUEUED,
) -> Decision:
    """Makes room on the best of the cards, or on as many as are wanted; `queued` are seconds of loading by card."""
    ranked, choice = weigh(state, need, _likeliest(state, cards), now, kept, queued, explain=False)
    if choice.outcome != "evict" and len(cards) > WEIGHED:
        ranked, choice = weigh(state, need, cards, now, kept, queued, explain=False)
    if choice.outcome != "evict":
        return Decision(reply=placement.refusal(need.wish, choice))
    before = _promised(state, need, ranked, now)
    if before is not None:
        return before
    going = lease_evictions.all_that_go(state, _chosen(state, need, ranked))
    why = f"makes room for {need.wish.model}"
    decision, seconds = expire(state, going, why, now, at, need.lease_id, choice.victims, ranked[0].site.card.uuid)
    ids = tuple(record.lease_id for record in going)
    rooms = [_reserved(need, each.site.card.uuid, now, ids, choice.victims, seconds) for each in ranked]
    return Decision(
        facts=(*decision.facts, *rooms, *_beside(need, now)),
        reply=RoomPromised(victims=list(choice.victims), within_s=seconds),
        instructions=decision.instructions,
    )


def weigh(
    state: LeaseState,
    need: Need,
    cards: Sequence[Candidate],
    now: float,
    kept: Collection[str] = (),
    queued: Mapping[str, float] = NOTHING_QUEUED,
    explain: bool = True,
) -> tuple[list[Ranked], Choice]:
    """The cards that the request would get after evictions, best first, and the choice that says so: `evict`, else as placed.

    Every card is told of with who would go there and its price; without `explain` only those chosen, where there are any.
    """
    wish = need.wish
    open_to = [
        card
        for card in cards
        if ranking.could_take(wish, card)
        and not card.problem
        and card.uuid not in kept
        and not _reserved_alone(state, need, card)
    ]
    sites = [_site(state, need, card, now, queued.get(card.uuid, 0.0)) for card in open_to]
    ranked = ranking.rank(wish.need_bytes, sites, need.priority, state.horizon.seconds, draining=need.draining)
    best = [each for each in ranked if each.possible and _alone(need, each)][: wish.cards]
    told_of = best if len(best) == wish.cards and not explain else ranked
    weighed = {each.site.card.uuid: _verdict(state, need, each) for each in told_of}
    told = list(
        {victim.lease_id: victim for each in best or ranked for victim in weighed[each.site.card.uuid].victims}.values()
    )
    if len(best) < wish.cards:
        refused = placement.choose(wish, cards, kept, missing=_missing(state))
        outcome = "wait" if refused.outcome == "grant" else refused.outcome
        reason = refused.reason if refused.outcome != "grant" else f"{wish.model} needs {wish.need}"
        reason = "; ".join((reason, *(each.reason for each in ranked[:1])))
        choice = msgspec.structs.replace(
            refused, outcome=outcome, card=None, cards=(), reason=reason, weighed=weighed, victims=told
        )
        return [], choice
    first = best[0]
    chosen = tuple(state.book.candidate(each.site.card.uuid, now, need.lease_id) or each.site.card for each in best)
    reason = f"{wish.model} needs {wish.need}; on {first.site.card.label} {first.reason}"
    free = max(card.grantable_bytes for card in chosen)
    return best, Choice(
        "evict", chosen[0], free, reason, wish, cards, kept, cards=chosen, weighed=weighed, victims=told
    )


def expire(
    state: LeaseState,
    records: Sequence[LeaseRecord],
    reason: str,
    now: float,
    at: Timestamp,
    for_lease: str = "",
    weighed: Sequence[Victim] = (),
    card_uuid: str = "",
    decided: Decided = "expiring",
    for_good: bool = False,
) -> tuple[Decision, float]:
    """Marks leases expiring, orders their eviction where nobody uses them, and says how long that may take.

    `for_good`: they are not put to sleep.
    """
    facts: list[Fact] = []
    instructions: list[Instruction] = []
    idle: list[LeaseRecord] = []
    draining: list[LeaseRecord] = []
    for record in records:
        idle_s = state.idle_s(record, now)
        chance = want(state.demand.gap(key_of(record)), idle_s, state.horizon.seconds)
        lost_s = chance * lease_evictions.load_s(state, record)
        gone = msgspec.structs.replace(
            record, state="expiring", reason=reason, for_lease=for_lease, lost_s=lost_s, for_good=for_good
        )
        facts.append(Expiring(gone, idle_s))
        note = lease_view.note(
            gone, state.host, decided, reason, at, victims=weighed, expected_bytes=_expected(state, gone, card_uuid)
        )
        instructions += lease_view.announce(state, gone, "expiring", now, reason), note
        (draining if state.in_use(record) else idle).append(gone)
    orders = lease_evictions.evict_orders(state, idle, card_uuid, draining)
    decision = Decision(facts=tuple(facts), instructions=(*instructions, *orders))
    return decision, lease_evictions.within_s(orders)


def forget_room(state: LeaseState, lease_id: str) -> Decision:
    """Keeps nothing for the lease id any more; the leases that were to go for it go all the same."""
    return Decision(facts=(Unreserved(lease_id),) if state.has_room(lease_id) else ())


def late_rooms(state: LeaseState, now: float) -> tuple[Unreserved, ...]:
    """The reservations whose time has run out, on all cards and beside them."""
    until = {lease_id: max(room.until for room in rooms.values()) for lease_id, rooms in state.reservations.items()}
    for lease_id, room in state.host_rooms.items():
        until[lease_id] = max(room.until, until.get(lease_id, room.until))
    return tuple(Unreserved(lease_id) for lease_id, late in until.items() if late <= now)


def _likeliest(state: LeaseState, cards: Sequence[Candidate]) -> Sequence[Candidate]:
    """Of more cards than are weighed in full, those of the leases that have not been used for longest."""
    if len(cards) <= WEIGHED:
        return cards
    known = {card.uuid: card for card in cards}
    likely: dict[str, Candidate] = {}
    for lease_id in state.used_at:
        for uuid, _ in state.live[lease_id].places:
            if uuid in known:
                likely[uuid] = known[uuid]
        if len(likely) >= WEIGHED:
            break
    return list(likely.values())


def _site(state: LeaseState, need: Need, card: Candidate, now: float, queued_s: float) -> Site:
    """The card with the room that the request would find there, what is on its way counted in, and with who may go."""
    weighed = lease_evictions.residents(state, card.uuid, need.priority, now)
    staying = lease_evictions.ends_with(state, need.owner) | {need.asleep}
    mine = [each for each in weighed if each.lease_id not in staying]
    room = state.book.spare_bytes(card.uuid, need.lease_id) + lease_evictions.coming_bytes(mine)
    if need.wish.exclusive or card.exclusive:
        room = min(room, need.wish.need_bytes - sum(each.bytes for each in mine if not each.expiring))
    return Site(msgspec.structs.replace(card, grantable_bytes=room), mine, queued_s)


def _alone(need: Need, ranked: Ranked) -> bool:
    """Whether nobody would be left on a card that one lease is to have, or has had, to itself."""
    left = {each.lease_id for each in ranked.site.residents if not each.expiring}
    left -= {each.lease_id for each in ranked.plan.chosen}
    return not (left and (need.wish.exclusive or ranked.site.card.exclusive))


def _verdict(state: LeaseState, need: Need, ranked: Ranked) -> CardVerdict:
    verdict = ranked.verdict
    told = lease_evictions.explained(state, verdict.victims, need.priority)
    return msgspec.structs.replace(verdict, grantable_bytes=max(0, verdict.grantable_bytes), victims=told)


def _promised(state: LeaseState, need: Need, ranked: Sequence[Ranked], now: float) -> Decision | None:
    """The former answer, with the time starting anew, where what goes already is still enough; None where it is not."""
    rooms = state.reservations.get(need.lease_id, {})
    if not rooms or any(each.plan.chosen or each.site.card.uuid not in rooms for each in ranked):
        return None
    again = [msgspec.structs.replace(room, until=now + need.patience_s) for room in rooms.values()]
    room = rooms[ranked[0].site.card.uuid]
    promise = RoomPromised(victims=list(room.weighed), within_s=room.within_s)
    return Decision(facts=(*again, *_beside(need, now)), reply=promise)


def _chosen(state: LeaseState, need: Need, ranked: Sequence[Ranked]) -> list[str]:
    ids: dict[str, None] = {}
    for each in ranked:
        ids |= dict.fromkeys(resident.lease_id for resident in each.plan.chosen)
    return list(ids)


def _reserved(
    need: Need, card_uuid: str, now: float, ids: tuple[str, ...], weighed: Iterable[Victim], seconds: float
) -> Reserved:
    wish, until = need.wish, now + need.patience_s
    return Reserved(need.lease_id, card_uuid, wish.need_bytes, wish.exclusive, until, ids, tuple(weighed), seconds)


def _beside(need: Need, now: float) -> tuple[Fact, ...]:
    until = now + need.patience_s
    return lease_beside.kept(need.beside, need.lease_id, need.wish.model, until, need.asleep)


def _reserved_alone(state: LeaseState, need: Need, card: Candidate) -> bool:
    """Whether others have room reserved on the card in a way that this request cannot share."""
    others = [
        rooms[card.uuid] for each, rooms in state.reservations.items() if each != need.lease_id and card.uuid in rooms
    ]
    return bool(others) and (need.wish.exclusive or any(room.exclusive for room in others))


def _expected(state: LeaseState, record: LeaseRecord, card_uuid: str) -> int:
    """What the lease's going should return on the card."""
    card = card_uuid if card_uuid in record.card_uuids else record.card_uuid
    return lease_evictions.held_bytes(state, record, card)


def _missing(state: LeaseState) -> dict[str, str]:
    why = state.book.missing()
    return {state.host: why} if why else {}
