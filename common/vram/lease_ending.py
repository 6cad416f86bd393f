"""How leases end, and what ends with them: their shares, the watch over their owners, a lease that only its shares kept.

A lease that others share does not end by its holder's letting go, or by its TTL: it goes on until the last of them has ended.
With its process, its card or its eviction the shares end too, for then the bytes are gone. When the last use of a lease ends
that had to go, its eviction begins. Functions here decide and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from typing import Final

import msgspec

from common.api.leases import Owner, ReleaseLease
from common.api.words import Empty, Timestamp
from common.errors import NotFound, StaleFence, TandemError
from common.vram import lease_facts, lease_view
from common.vram.lease_decision import Announce, Decision, Instruction, Note, Reply, Unwatch
from common.vram.lease_evictions import evict_orders
from common.vram.lease_facts import REASONS, End, Fact, GivenBack, LeaseRecord, Marked, QuarantineLifted
from common.vram.lease_state import LeaseState

NO_NOTES: Final[Mapping[str, Note]] = {}
REMEMBERED_S: Final = 86_400.0
REMEMBERED: Final = 100_000
"""How long, and for how many ended leases, an id and an idempotency key stay taken."""


def end(
    state: LeaseState,
    records: Sequence[LeaseRecord],
    how: End,
    now: float,
    at: Timestamp,
    reply: Reply | None = None,
    *,
    reason: str = "",
    notes: Mapping[str, Note] = NO_NOTES,
    lifted: Collection[str] = (),
    quarantined: str = "",
) -> Decision:
    """Ends the leases, their shares with them, and whatever only these kept; `notes` are receipts written otherwise.

    `lifted` are quarantines that end with them, `quarantined` the lease whose bytes stay, so that its process stays watched.
    """
    why = reason or REASONS[how]
    ending = {record.lease_id: (record, how, why) for record in records}
    for record in records:
        for share in state.users.get(record.lease_id, ()):
            ending[share] = state.live[share], how, f"the lease {record.lease_id} that it shared has ended: {why}"
    facts: list[Fact] = []
    after: list[Instruction] = []
    for parent in _left_unused(state, ending):
        if parent.given_back:
            ending[parent.lease_id] = parent, "released", REASONS["released"]
        else:
            after += _idle(state, parent, now)
    instructions: list[Instruction] = []
    for record, its_end, its_why in sorted(ending.values(), key=lambda each: not each[0].shares):
        facts.append(lease_facts.ended(record, its_end, "" if its_why == REASONS[its_end] else its_why))
        instructions.append(lease_view.announce(state, record, its_end, now, its_why))
        instructions.append(notes.get(record.lease_id) or lease_view.note(record, state.host, its_end, its_why, at))
    gone = (ending.keys() - {quarantined}) | set(lifted)
    unwatched = _unwatched(state, [record.owner for record, _, _ in ending.values()], gone, lifted)
    facts += map(QuarantineLifted, lifted)
    return Decision(facts=tuple(facts), reply=reply, instructions=(*instructions, *unwatched, *after))


def let_go(
    state: LeaseState, record: LeaseRecord, how: End, now: float, at: Timestamp, reply: Reply | None = None
) -> Decision:
    """Its holder gave the lease back, or its TTL ran out: it ends, unless others share it."""
    users = state.users.get(record.lease_id)
    if not users:
        return end(state, [record], how, now, at, reply)
    reason = f"{REASONS[how]}, while {len(users)} others use it"
    kept = msgspec.structs.replace(record, given_back=True, in_use=False, reason=record.reason or reason)
    note = lease_view.note(kept, state.host, how, reason, at)
    return Decision(
        facts=(GivenBack(kept),),
        reply=reply,
        instructions=(lease_view.announce(state, kept, "marked", now, reason), note),
    )


def release(state: LeaseState, asked: ReleaseLease, now: float, at: Timestamp) -> Decision:
    """Gives the bytes back; once more with the same token is no error.

    Of a lease that has to go this is its holder's word: it ends when the card shows that process's bytes gone. One that sleeps is
    let go of under the token that its holder had before.
    """
    record, past = state.live.get(asked.lease_id), state.past.get(asked.lease_id)
    if record is not None and asked.fencing_token and record.slept_token == asked.fencing_token:
        record = msgspec.structs.replace(record, fencing_token=asked.fencing_token)
    if record is not None and record.fencing_token == asked.fencing_token:
        if record.given_back:
            return Decision(reply=Empty())
        if record.state == "expiring" and state.pinned(record.owner) is not None:
            return _word_given(state, record, now)
        return let_go(state, record, "released", now, at, Empty())
    if past is not None and past.lease.fencing_token == asked.fencing_token:
        return Decision(reply=Empty())
    return Decision(reply=not_current(state, asked.lease_id, asked.fencing_token))


def not_current(state: LeaseState, lease_id: str, token: int) -> TandemError | None:
    """Why this token does not stand for a held lease: another one does, it sleeps or has ended, or nobody knows it."""
    record = state.live.get(lease_id)
    if record is not None:
        if record.given_back:
            return StaleFence(f"lease {lease_id} was let go of: {record.reason}", lease_id=lease_id)
        if record.fencing_token == token and record.state != "parked":
            return None
        why = (
            "is parked; its owner asks for it anew"
            if record.state == "parked"
            else "is held under another fencing token"
        )
        return StaleFence(f"lease {lease_id} {why}", lease_id=lease_id)
    past = state.past.get(lease_id)
    if past is not None:
        return StaleFence(f"lease {lease_id} has ended: {past.lease.why}", lease_id=lease_id, end=past.lease.end)
    return NotFound(f"{state.host} knows no lease {lease_id}", lease_id=lease_id)


def expiring(record: LeaseRecord) -> TandemError:
    """The refusal of what would revive a lease that has to go."""
    text = f"lease {record.lease_id} is expiring: {record.reason}"
    return StaleFence(text, lease_id=record.lease_id, state=record.state, reason=record.reason)


def forgettable(state: LeaseState, now: float) -> tuple[str, ...]:
    """The ended leases beyond REMEMBERED_S and REMEMBERED."""
    old: list[str] = []
    surplus = len(state.past) - REMEMBERED
    for lease_id, past in state.past.items():
        if len(old) >= surplus and now - past.since <= REMEMBERED_S:
            break
        old.append(lease_id)
    return tuple(old)


def overdue(state: LeaseState, lease_id: str, now: float) -> bool:
    """Whether its TTL has run out."""
    due = state.deadlines.get(lease_id)
    return due is not None and due <= now


def _word_given(state: LeaseState, record: LeaseRecord, now: float) -> Decision:
    if not record.in_use:
        return Decision(reply=Empty())
    idle = msgspec.structs.replace(record, in_use=False)
    orders = () if record.lease_id in state.users else evict_orders(state, [idle])
    told = lease_view.announce(state, idle, "marked", now, "its holder gave it back")
    return Decision(facts=(Marked(idle),), reply=Empty(), instructions=(told, *orders))


def _left_unused(state: LeaseState, ending: Mapping[str, tuple[LeaseRecord, End, str]]) -> list[LeaseRecord]:
    """The leases that go on while the last of their shares ends."""
    parents = dict.fromkeys(record.shares for record, _, _ in ending.values() if record.shares)
    return [
        state.live[parent]
        for parent in parents
        if parent in state.live and parent not in ending and state.users[parent].keys() <= ending.keys()
    ]


def _idle(state: LeaseState, parent: LeaseRecord, now: float) -> list[Instruction]:
    """What follows when nobody shares a lease any more."""
    if parent.in_use:
        return []
    told = lease_view.announce(state, parent, "marked", now, "its last user has gone").change
    lease = msgspec.structs.replace(told.lease, in_use=False, users=0)
    idle = Announce(told.change, msgspec.structs.replace(told, lease=lease))
    return [idle, *(evict_orders(state, [parent]) if parent.state == "expiring" else ())]


def _unwatched(state: LeaseState, owners: Sequence[Owner], gone: Set[str], lifted: Collection[str]) -> list[Unwatch]:
    """The processes on which nothing hangs any more when the leases and quarantines of `gone` are."""
    pinned = {owner for each in owners if (owner := state.pinned(each)) is not None}
    pinned |= {state.quarantines[each].owner for each in lifted}
    return [Unwatch(owner) for owner in sorted(pinned) if state.owned[owner].keys() <= gone]
