"""Who is let in: a request becomes a lease, a share of one, or an old one awake again, or it is refused with every reason.

    known under its id or key          the lease it was granted, and nothing new
    its owner's lease sleeps           that lease, awake, under a new token, where the rest of its bytes has room
    `share`, and one like it lives     a share of it, which takes no bytes
    else                               bytes on the tightest fitting card, or on several of this host, all or none

Room reserved for a request is found by its lease id and by no other. What a decision is explained with is drawn up when it is
read: nobody waits for it. The functions here decide and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import msgspec

from common.api.decisions import LeasePlan, PlanLease
from common.api.leases import Owner
from common.api.supervisor import AdmitLease
from common.api.words import Timestamp
from common.errors import Unavailable
from common.vram import lease_beside, lease_evictions, lease_known, lease_of_host, lease_room, lease_view, placement
from common.vram.cards import ProcessId
from common.vram.lease_beside import NONE_BARRED
from common.vram.lease_decision import Decision, Watch
from common.vram.lease_facts import EpochOpened, FurtherCard, Granted, LeaseRecord, Unparked, Unreserved
from common.vram.lease_outcomes import next_fence
from common.vram.lease_room import NOTHING_QUEUED, Need
from common.vram.lease_state import LeaseState
from common.vram.lease_view import Explained
from common.vram.placement import Candidate, Choice, Wish


def admit(
    state: LeaseState,
    asked: AdmitLease,
    now: float,
    at: Timestamp,
    kept: Collection[str] = (),
    missing_files: Sequence[str] = (),
) -> Decision:
    """Grants the request or refuses it; it never waits. `kept`: cards kept for others."""
    known = lease_known.under(state, asked)
    asleep = lease_known.asleep(state, asked, known)
    if known is not None and asleep is None:
        return lease_known.again(state, known, asked, now, at)
    if not state.epoch_open:
        return Decision(reply=Unavailable(f"{state.host} has not opened a fence epoch yet", retry_after_ms=200))
    process = state.pinned(asked.owner) if asked.owner else None
    parent = None if asleep else lease_known.shared(state, asked, now)
    if parent is not None:
        return _share(state, asked, parent, process, now, at)
    wish = _wish(asked, asleep)
    cards, choice = choose(state, asked, wish, now, kept, missing_files, asked.lease_id, asleep, process)
    if not cards:
        return _refuse(state, asked, wish, choice(), at)
    if asleep is not None:
        return _wake(state, asked, asleep, choice, now, at)
    return _grant(state, asked, cards, choice, process, now, at)


def evict_for(
    state: LeaseState,
    asked: AdmitLease,
    now: float,
    at: Timestamp,
    patience_s: float,
    kept: Collection[str] = (),
    queued: Mapping[str, float] = NOTHING_QUEUED,
    draining: bool = False,
) -> Decision:
    """Makes room for a request that `admit` refused for want of it, on the card where that costs least."""
    if not state.epoch_open:
        return Decision(reply=Unavailable(f"{state.host} has not opened a fence epoch yet", retry_after_ms=200))
    asleep = lease_known.asleep(state, asked, lease_known.under(state, asked))
    wish = _wish(asked, asleep)
    owner = state.pinned(asked.owner) if asked.owner else None
    choice = choose(state, asked, wish, now, kept, (), asked.lease_id, asleep, owner)[1]()
    if choice.barred or choice.outcome == "never":
        return Decision(reply=placement.refusal(wish, choice))
    sleeper = asleep.lease_id if asleep else ""
    beside = lease_beside.of(asked)
    need = Need(asked.lease_id, wish, asked.priority, patience_s, draining, sleeper, owner, beside)
    return lease_room.make(state, need, choice.cards or choice.seen, now, at, kept, queued)


def plan(
    state: LeaseState,
    asked: PlanLease,
    now: float,
    kept: Collection[str] = (),
    missing_files: Sequence[str] = (),
    load_s: float = 0.0,
) -> LeasePlan:
    """What would happen to the request now; nothing is changed."""
    wish = Wish.of(asked)
    parent = lease_known.shared(state, asked, now)
    if parent is not None:
        return placement.lease_plan(wish, _joined(state, wish, parent, now))
    choice = choose(state, asked, wish, now, kept, missing_files)[1]()
    if choice.outcome != "never":
        _, told = lease_room.weigh(state, Need("", wish, asked.priority, 0.0), choice.seen, now, kept)
        granted = choice.outcome == "grant"
        choice = placement.after_others(choice, told.weighed.values()) if granted else told
    return placement.lease_plan(wish, choice, load_s)


def short_of_host(state: LeaseState, asked: AdmitLease) -> str:
    """Why the host's RAM, disk or cores do not do for the request by now, in place of what a lease that it wakes has of them."""
    asleep = lease_known.asleep(state, asked, lease_known.under(state, asked))
    short = lease_beside.shortage(state, asked, asked.lease_id, asleep.lease_id if asleep else "")
    return "" if short is None else short.reason


def _wish(asked: AdmitLease, asleep: LeaseRecord | None) -> Wish:
    wish = Wish.of(asked)
    if asleep is None:
        return wish
    more, cards = max(0, asked.bytes - asleep.bytes), len(asleep.card_uuids)
    return msgspec.structs.replace(wish, need_bytes=more, host="", card_uuid=asleep.card_uuid, cards=cards)


def choose(
    state: LeaseState,
    asked: AdmitLease | PlanLease,
    wish: Wish,
    now: float,
    kept: Collection[str],
    missing_files: Sequence[str] = (),
    lease_id: str = "",
    asleep: LeaseRecord | None = None,
    process: ProcessId | None = None,
) -> tuple[tuple[Candidate, ...], Callable[[], Choice]]:
    """The cards that the request gets, none where it gets none, and the choice for whoever reads it.

    `lease_id` is the one that room may be reserved for, `asleep` the lease that it wakes, `process` its owner's.
    """
    if isinstance(asked, AdmitLease) and not asked.cards:
        told = lease_of_host.choose(state, asked, wish, missing_files)
        return told.cards, lambda: told
    rooms = state.reservations.get(lease_id)
    if rooms:
        kept = frozenset(kept) - rooms.keys()
    cards: Sequence[Candidate] = state.book.candidates(now, lease_id if rooms else "")
    if asleep is not None:
        mine = asleep.card_uuids
        cards = [msgspec.structs.replace(card, leases=card.leases - 1) for card in cards if card.uuid in mine]
    if process is not None and process in state.owned:
        cards = _where_its_owner_may(state, process, cards)
    barred, oversized = NONE_BARRED, NONE_BARRED
    if missing_files:
        barred = {state.host: f"it lacks {', '.join(missing_files)}"}
    elif asked.ram_bytes or asked.disk_bytes or asked.cpu_cores:
        cards, oversized = lease_beside.as_open(state, asked, cards, lease_id, asleep.lease_id if asleep else "")
        barred = oversized
    chosen = placement.picks(wish, cards, kept, barred)
    if chosen:
        return chosen, partial(placement.granted, wish, cards, kept, barred, chosen)
    why = state.book.missing()
    missing = {state.host: why} if why else NONE_BARRED
    return (), partial(placement.choose, wish, cards, kept, missing=missing, barred=barred, oversized=oversized)


def _where_its_owner_may(state: LeaseState, process: ProcessId, cards: Sequence[Candidate]) -> Sequence[Candidate]:
    """The cards, closed where the owner's process is giving bytes back: those would not be told from what it took anew."""
    seen: list[Candidate] = []
    for card in cards:
        going = lease_evictions.giving_back(state, process, card.uuid)
        if going is not None and not card.problem:
            why = f"its process is giving back {going.model} ({going.lease_id}) first"
            card = msgspec.structs.replace(card, grantable_bytes=0, problem=why)
        seen.append(card)
    return seen


def _refuse(state: LeaseState, asked: AdmitLease, wish: Wish, choice: Choice, at: Timestamp) -> Decision:
    note = lease_view.choice_note(asked, choice, at)
    for_good = choice.outcome == "never" and state.has_room(asked.lease_id)
    facts = (Unreserved(asked.lease_id),) if for_good else ()
    return Decision(facts=facts, reply=placement.refusal(wish, choice), instructions=(note,))


def _grant(
    state: LeaseState,
    asked: AdmitLease,
    cards: tuple[Candidate, ...],
    choice: Explained,
    process: ProcessId | None,
    now: float,
    at: Timestamp,
) -> Decision:
    first = cards[0]
    fence, opened = next_fence(state)
    base = state.book.base_bytes(first.uuid) if first.uuid else 0
    record = msgspec.structs.replace(
        _record(asked, fence.token, at, asked.bytes, first.index, first.uuid, base),
        config=asked.config,
        declared_bytes=asked.declared_bytes or asked.bytes,
        further=_further(state, cards) if len(cards) > 1 else (),
        in_use=asked.in_use,
        pinned=asked.pinned,
        exclusive=asked.exclusive,
        ram_bytes=asked.ram_bytes,
        disk_bytes=asked.disk_bytes,
        cpu_cores=asked.cpu_cores,
        load_s=asked.load_s,
        unload=asked.unload,
    )
    return _let_in(state, asked, record, opened, choice, process, now, at)


def _further(state: LeaseState, cards: tuple[Candidate, ...]) -> tuple[FurtherCard, ...]:
    return tuple(FurtherCard(card.uuid, state.book.base_bytes(card.uuid)) for card in cards[1:])


def _share(
    state: LeaseState, asked: AdmitLease, parent: LeaseRecord, process: ProcessId | None, now: float, at: Timestamp
) -> Decision:
    choice = _joined(state, Wish.of(asked), parent, now)
    fence, opened = next_fence(state)
    record = msgspec.structs.replace(
        _record(asked, fence.token, at, 0, parent.card, parent.card_uuid, parent.base_bytes),
        config=asked.config,
        further=parent.further,
        in_use=asked.in_use,
        shares=parent.lease_id,
        load_s=asked.load_s,
        unload=asked.unload,
    )
    return _let_in(state, asked, record, opened, choice, process, now, at)


def _joined(state: LeaseState, wish: Wish, parent: LeaseRecord, now: float) -> Choice:
    """The choice of a request that joins a lease."""
    card = state.book.candidate(parent.card_uuid, now) or Candidate(state.host, parent.card, parent.card_uuid, 0, 0)
    reason = f"{wish.model} is leased already: joins {parent.lease_id} on {card.label}"
    return Choice("share", card, card.grantable_bytes, reason, wish, (), cards=(card,), share=parent.lease_id)


def _record(
    asked: AdmitLease, token: int, at: Timestamp, size: int, index: int, uuid: str, base_bytes: int
) -> LeaseRecord:
    """The new lease of so many bytes on that card, as far as all leases have it."""
    return LeaseRecord(
        lease_id=asked.lease_id,
        model=asked.model,
        bytes=size,
        priority=asked.priority if asked.held_priority is None else asked.held_priority,
        card=index,
        card_uuid=uuid,
        fencing_token=token,
        owner=asked.owner or Owner(),
        identity=asked.identity,
        idempotency_key=asked.idempotency_key,
        body=lease_view.body_of(asked),
        ttl_s=asked.ttl_s,
        granted_at=at,
        base_bytes=base_bytes,
    )


def _let_in(
    state: LeaseState,
    asked: AdmitLease,
    record: LeaseRecord,
    opened: tuple[EpochOpened, ...],
    choice: Explained,
    process: ProcessId | None,
    now: float,
    at: Timestamp,
) -> Decision:
    watch = () if process is None or process in state.owned else (Watch(process),)
    rooms = state.reservations.get(asked.lease_id)
    weighed = next(iter(rooms.values())).weighed if rooms else ()
    note = lease_view.choice_note(asked, choice, at, victims=weighed)
    return Decision(
        facts=(*opened, Granted(record), *_unreserved(state, asked)),
        reply=lease_view.granted(record, state.host, asked.ttl_s),
        instructions=(*watch, lease_view.announce_grant(state, record, now), note),
    )


def _wake(
    state: LeaseState, asked: AdmitLease, asleep: LeaseRecord, choice: Explained, now: float, at: Timestamp
) -> Decision:
    fence, opened = next_fence(state)
    record = msgspec.structs.replace(
        asleep,
        state="held",
        bytes=asked.bytes,
        declared_bytes=asked.declared_bytes or asked.bytes,
        parked_bytes=0,
        fencing_token=fence.token,
        slept_token=0,
        priority=asked.priority if asked.held_priority is None else asked.held_priority,
        pinned=asked.pinned,
        exclusive=asked.exclusive,
        identity=asked.identity,
        idempotency_key=asked.idempotency_key,
        body=lease_view.body_of(asked),
        ttl_s=asked.ttl_s,
        in_use=asked.in_use,
        ram_bytes=asked.ram_bytes,
        disk_bytes=asked.disk_bytes,
        cpu_cores=asked.cpu_cores,
        load_s=asked.load_s or asleep.load_s,
        unload=asked.unload or asleep.unload,
        reason="",
        for_lease="",
        lost_s=0.0,
        asked_as=asked.lease_id if asked.lease_id != asleep.lease_id else asleep.asked_as,
    )
    told = lease_view.announce(state, record, "granted", now, "awake again")
    woken = msgspec.structs.replace(asked, lease_id=record.lease_id)
    return Decision(
        facts=(*opened, Unparked(record), *_unreserved(state, asked)),
        reply=lease_view.granted(record, state.host, record.ttl_s),
        instructions=(told, lease_view.choice_note(woken, choice, at, "unparked")),
    )


def _unreserved(state: LeaseState, asked: AdmitLease) -> tuple[Unreserved, ...]:
    return (Unreserved(asked.lease_id),) if state.has_room(asked.lease_id) else ()
