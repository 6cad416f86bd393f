"""Who is let in: a request becomes a lease, a share of one, or an old one awake again, or it is refused with every reason.

    known under its id or key          the lease it was granted, and nothing new
    its owner's lease sleeps           that lease, awake, under a new token, where the rest of its bytes has room
    `share`, and one like it lives     a share of it, which takes no bytes
    else                               bytes on the tightest fitting card, or on several of this host, all or none

Room reserved for a request is found by its lease id and by no other. Nothing is admitted to a lease that has to go. The
functions here decide and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from common.api.leases import LeasePlan, Owner, PlanLease
from common.api.supervisor import AdmitLease
from common.api.words import Timestamp
from common.errors import Conflict, IdempotencyMismatch, Unavailable
from common.vram import lease_ending, lease_evictions, lease_of_host, lease_room, lease_view, placement
from common.vram.demand import ModelKey
from common.vram.lease_decision import Decision, Instruction, Watch
from common.vram.lease_facts import End, FurtherCard, Granted, LeaseRecord, Unparked, Unreserved
from common.vram.lease_outcomes import next_fence
from common.vram.lease_room import NOTHING_QUEUED, Need
from common.vram.lease_state import LeaseState
from common.vram.placement import Candidate, Choice, Wish

NONE_BARRED: Final[Mapping[str, str]] = {}


def admit(
    state: LeaseState,
    asked: AdmitLease,
    now: float,
    at: Timestamp,
    kept: Collection[str] = (),
    missing_files: Sequence[str] = (),
) -> Decision:
    """Grants the request or refuses it; it never waits. `kept`: cards kept for others."""
    known = _known(state, asked)
    asleep = _asleep(state, asked, known)
    if known is not None and asleep is None:
        return _again(state, known, asked, now, at)
    if not state.epoch_open:
        return Decision(reply=Unavailable(f"{state.host} has not opened a fence epoch yet", retry_after_ms=200))
    parent = None if asleep else _shared(state, asked, now)
    if parent is not None:
        return _share(state, asked, parent, now, at)
    wish = _wish(asked, asleep)
    choice = _choose(state, asked, wish, now, kept, missing_files, asked.lease_id, asleep)
    if not choice.cards:
        return _refuse(state, asked, wish, choice, at)
    return _grant(state, asked, choice, now, at) if asleep is None else _wake(state, asked, asleep, choice, now, at)


def evict_for(
    state: LeaseState,
    asked: AdmitLease,
    now: float,
    at: Timestamp,
    patience_s: float,
    kept: Collection[str] = (),
    queued: Mapping[str, float] = NOTHING_QUEUED,
    missing_files: Sequence[str] = (),
    draining: bool = False,
) -> Decision:
    """Makes room for a request that `admit` refused for want of it, on the card where that costs least."""
    if not state.epoch_open:
        return Decision(reply=Unavailable(f"{state.host} has not opened a fence epoch yet", retry_after_ms=200))
    asleep = _asleep(state, asked, _known(state, asked))
    wish = _wish(asked, asleep)
    choice = _choose(state, asked, wish, now, kept, missing_files, asked.lease_id, asleep)
    if choice.barred or choice.outcome == "never":
        return Decision(reply=placement.refusal(wish, choice))
    sleeper = asleep.lease_id if asleep else ""
    owner = state.pinned(asked.owner or Owner())
    need = Need(asked.lease_id, wish, asked.priority, patience_s, draining, sleeper, owner)
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
    parent = _shared(state, asked, now)
    if parent is not None:
        return placement.lease_plan(wish, _joined(state, wish, parent, now))
    choice = _choose(state, asked, wish, now, kept, missing_files)
    if choice.outcome == "wait":
        need = Need("", wish, asked.priority, 0.0)
        _, choice = lease_room.weigh(state, need, choice.seen, now, kept)
    return placement.lease_plan(wish, choice, load_s)


def _known(state: LeaseState, asked: AdmitLease) -> str | None:
    """The lease that the request stands for already, live or ended; None where it is new."""
    own = state.aliases.get(asked.lease_id, asked.lease_id)
    known = state.keys.get((asked.identity, asked.idempotency_key), own)
    if known != own and asked.anew and known in state.past and state.past[known].lease.end == "released":
        known = own
    return known if known in state.live or known in state.past else None


def _again(state: LeaseState, lease_id: str, asked: AdmitLease, now: float, at: Timestamp) -> Decision:
    record, past = state.live.get(lease_id), state.past.get(lease_id)
    if lease_view.body_of(asked) != (record.body if record else past.lease.body if past else ""):
        return Decision(reply=IdempotencyMismatch(f"{lease_id} was granted for another request", lease_id=lease_id))
    if record is not None and not lease_ending.overdue(state, lease_id, now):
        if record.state == "expiring":
            return Decision(reply=lease_ending.expiring(record))
        if record.given_back:
            return Decision(reply=lease_ending.not_current(state, lease_id, record.fencing_token))
        return Decision(reply=lease_view.granted(record, state.host, lease_view.expires_in_s(state, record, now)))
    end: End = past.lease.end if past else "expired"
    why = past.lease.why if past else "its TTL ran out without a renewal"
    error = Conflict(f"lease {lease_id} was granted for this request and has ended: {why}", lease_id=lease_id, end=end)
    return Decision(reply=error) if record is None else lease_ending.let_go(state, record, "expired", now, at, error)


def _asleep(state: LeaseState, asked: AdmitLease, known: str | None) -> LeaseRecord | None:
    """The parked lease that the request wakes: its owner's, of this model and config."""
    if known is not None:
        record = state.live.get(known)
        same = record is not None and record.body == lease_view.body_of(asked)
        return record if same and record is not None and record.state == "parked" else None
    owner = asked.owner or Owner()
    for lease_id in state.alike.get(ModelKey(asked.model, asked.config), ()):
        record = state.live[lease_id]
        if record.state == "parked" and _one_owner(state, record, owner, asked.identity):
            return record
    return None


def _one_owner(state: LeaseState, record: LeaseRecord, owner: Owner, identity: str) -> bool:
    process = state.pinned(record.owner)
    if process is not None:
        return process == state.pinned(owner)
    return record.owner == owner and record.identity == identity


def _shared(state: LeaseState, asked: AdmitLease | PlanLease, now: float) -> LeaseRecord | None:
    """The lease that the request would join: held, of this model and config, where the request may go."""
    if not asked.share:
        return None
    for lease_id in state.alike.get(ModelKey(asked.model, asked.config), ()):
        record = state.live[lease_id]
        if (
            record.state == "held"
            and not record.given_back
            and asked.host in ("", state.host)
            and (not asked.card_uuid or asked.card_uuid in record.card_uuids)
            and not lease_ending.overdue(state, lease_id, now)
        ):
            return record
    return None


def _wish(asked: AdmitLease, asleep: LeaseRecord | None) -> Wish:
    wish = Wish.of(asked)
    if asleep is None:
        return wish
    more, cards = max(0, asked.bytes - asleep.bytes), len(asleep.card_uuids)
    return msgspec.structs.replace(wish, need_bytes=more, host="", card_uuid=asleep.card_uuid, cards=cards)


def _choose(
    state: LeaseState,
    asked: AdmitLease | PlanLease,
    wish: Wish,
    now: float,
    kept: Collection[str],
    missing_files: Sequence[str] = (),
    lease_id: str = "",
    asleep: LeaseRecord | None = None,
) -> Choice:
    if isinstance(asked, AdmitLease) and not asked.cards:
        return lease_of_host.choose(state, asked, wish, missing_files)
    rooms = state.reservations.get(lease_id)
    if rooms:
        kept = frozenset(kept) - rooms.keys()
    cards = state.book.candidates(now, lease_id if rooms else "")
    if asleep is not None:
        mine = asleep.card_uuids
        cards = [msgspec.structs.replace(card, leases=card.leases - 1) for card in cards if card.uuid in mine]
    if isinstance(asked, AdmitLease) and asked.owner is not None:
        cards = _where_its_owner_may(state, asked.owner, cards)
    barred = NONE_BARRED
    if missing_files:
        barred = {state.host: f"it lacks {', '.join(missing_files)}"}
    elif asked.ram_bytes or asked.disk_bytes or asked.cpu_cores:
        cards, barred = _on_the_host(state, asked, cards, asleep)
    why = state.book.missing()
    return placement.choose(wish, cards, kept, missing={state.host: why} if why else {}, barred=barred)


def _where_its_owner_may(state: LeaseState, owner: Owner, cards: list[Candidate]) -> list[Candidate]:
    """The cards, closed where the owner's process is giving bytes back: those would not be told from what it took anew."""
    process = state.pinned(owner)
    if process not in state.owned:
        return cards
    seen: list[Candidate] = []
    for card in cards:
        going = lease_evictions.giving_back(state, process, card.uuid)
        if going is not None and not card.problem:
            why = f"its process is giving back {going.model} ({going.lease_id}) first"
            card = msgspec.structs.replace(card, grantable_bytes=0, problem=why)
        seen.append(card)
    return seen


def _on_the_host(
    state: LeaseState, asked: AdmitLease | PlanLease, cards: list[Candidate], asleep: LeaseRecord | None
) -> tuple[list[Candidate], Mapping[str, str]]:
    """The cards as open as the host's RAM, disk and cores allow, or why they never could be."""
    own = asleep.lease_id if asleep else ""
    short = state.resources.shortage(asked.ram_bytes, asked.disk_bytes, asked.cpu_cores, own)
    if short is None:
        return cards, NONE_BARRED
    if short.never:
        return cards, {state.host: short.reason}
    return [msgspec.structs.replace(card, grantable_bytes=0, problem=short.reason) for card in cards], NONE_BARRED


def _refuse(state: LeaseState, asked: AdmitLease, wish: Wish, choice: Choice, at: Timestamp) -> Decision:
    note = lease_view.choice_note(asked, choice, at)
    for_good = choice.outcome == "never" and asked.lease_id in state.reservations
    facts = (Unreserved(asked.lease_id),) if for_good else ()
    return Decision(facts=facts, reply=placement.refusal(wish, choice), instructions=(note,))


def _grant(state: LeaseState, asked: AdmitLease, choice: Choice, now: float, at: Timestamp) -> Decision:
    first, *others = choice.cards
    further = tuple(FurtherCard(card.uuid, state.book.base_bytes(card.uuid)) for card in others)
    base = state.book.base_bytes(first.uuid) if first.uuid else 0
    return _new(state, asked, choice, now, at, asked.bytes, first.index, first.uuid, base, further)


def _share(state: LeaseState, asked: AdmitLease, parent: LeaseRecord, now: float, at: Timestamp) -> Decision:
    choice = _joined(state, Wish.of(asked), parent, now)
    return _new(
        state,
        asked,
        choice,
        now,
        at,
        0,
        parent.card,
        parent.card_uuid,
        parent.base_bytes,
        parent.further,
        parent.lease_id,
    )


def _joined(state: LeaseState, wish: Wish, parent: LeaseRecord, now: float) -> Choice:
    """The choice of a request that joins a lease."""
    card = state.book.candidate(parent.card_uuid, now) or Candidate(state.host, parent.card, parent.card_uuid, 0, 0)
    reason = f"{wish.model} is leased already: joins {parent.lease_id} on {card.label}"
    return Choice("share", card, card.grantable_bytes, reason, wish, (), cards=(card,), share=parent.lease_id)


def _new(
    state: LeaseState,
    asked: AdmitLease,
    choice: Choice,
    now: float,
    at: Timestamp,
    size: int,
    index: int,
    uuid: str,
    base_bytes: int,
    further: tuple[FurtherCard, ...],
    shares: str = "",
) -> Decision:
    fence, opened = next_fence(state)
    own = not shares
    record = LeaseRecord(
        lease_id=asked.lease_id,
        model=asked.model,
        bytes=size,
        priority=asked.priority if asked.held_priority is None else asked.held_priority,
        card=index,
        card_uuid=uuid,
        fencing_token=fence.token,
        owner=asked.owner or Owner(),
        identity=asked.identity,
        idempotency_key=asked.idempotency_key,
        body=lease_view.body_of(asked),
        ttl_s=asked.ttl_s,
        granted_at=at,
        base_bytes=base_bytes,
        config=asked.config,
        declared_bytes=(asked.declared_bytes if own else 0) or size,
        further=further,
        in_use=asked.in_use,
        pinned=asked.pinned and own,
        exclusive=asked.exclusive and own,
        shares=shares,
        ram_bytes=asked.ram_bytes if own else 0,
        disk_bytes=asked.disk_bytes if own else 0,
        cpu_cores=asked.cpu_cores if own else 0.0,
        load_s=asked.load_s,
        unload=asked.unload,
    )
    return Decision(
        facts=(*opened, Granted(record), *_unreserved(state, asked)),
        reply=lease_view.granted(record, state.host, asked.ttl_s),
        instructions=_told(state, asked, record, choice, now, at),
    )


def _wake(
    state: LeaseState, asked: AdmitLease, asleep: LeaseRecord, choice: Choice, now: float, at: Timestamp
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
    return (Unreserved(asked.lease_id),) if asked.lease_id in state.reservations else ()


def _told(
    state: LeaseState, asked: AdmitLease, record: LeaseRecord, choice: Choice, now: float, at: Timestamp
) -> tuple[Instruction, ...]:
    owner = state.pinned(record.owner)
    watch = () if owner is None or owner in state.owned else (Watch(owner),)
    rooms = state.reservations.get(asked.lease_id)
    if rooms:
        choice = msgspec.structs.replace(choice, victims=next(iter(rooms.values())).weighed)
    return *watch, lease_view.announce(state, record, "granted", now), lease_view.choice_note(asked, choice, at)
