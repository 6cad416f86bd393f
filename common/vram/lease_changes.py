"""What changes of a lease while it lives: its TTL, its use, the process it hangs on, the bytes it counts.

Nothing here ends a lease but a TTL that ran out before its renewal, and nothing revives one that has to go. Of such a lease
its holder may still say that its use is over, and then its eviction begins. Functions decide and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from common.api.leases import LeaseMarked, LeaseRenewed, MarkLease, Owner, RenewLease
from common.api.words import Empty, Timestamp
from common.errors import StaleFence
from common.vram import lease_ending, lease_evictions, lease_view
from common.vram.amount import amount
from common.vram.footprint import FootprintPolicy
from common.vram.lease_decision import Decision, Instruction, Unwatch, Watch
from common.vram.lease_facts import Corrected, Fact, LeaseRecord, Marked, Rebound, Renewed
from common.vram.lease_state import LeaseState
from common.vram.ledger import Holding


def renew(state: LeaseState, asked: RenewLease, now: float, at: Timestamp) -> Decision:
    """Starts the TTL anew; one that has run out ends the lease here, if nobody came to it yet."""
    problem = lease_ending.not_current(state, asked.lease_id, asked.fencing_token)
    if problem is not None:
        return Decision(reply=problem)
    record = state.live[asked.lease_id]
    if lease_ending.overdue(state, record.lease_id, now):
        gone = StaleFence(f"lease {record.lease_id} expired before this renewal", lease_id=record.lease_id)
        return lease_ending.let_go(state, record, "expired", now, at, gone)
    if record.state == "expiring":
        return Decision(reply=lease_ending.expiring(record))
    note = lease_view.note(record, state.host, "renewed", f"for {record.ttl_s:g} s from now", at)
    reply = LeaseRenewed(expires_in_s=record.ttl_s)
    return Decision(facts=(Renewed(record.lease_id),), reply=reply, instructions=(note,))


def mark(state: LeaseState, asked: MarkLease, now: float) -> Decision:
    """Takes down that the lease is in use, idle or loaded, or where its owner's container runs.

    A mark that changes nothing leaves no fact.
    """
    problem = lease_ending.not_current(state, asked.lease_id, asked.fencing_token)
    if problem is not None:
        return Decision(reply=problem)
    record = state.live[asked.lease_id]
    drained = record.state == "expiring" and record.in_use and asked.in_use is False
    if lease_ending.overdue(state, record.lease_id, now):
        return Decision(reply=StaleFence(f"lease {record.lease_id} expired before this mark", lease_id=record.lease_id))
    if record.state == "expiring" and not drained:
        return Decision(reply=lease_ending.expiring(record))
    in_use = record.in_use if asked.in_use is None else asked.in_use
    loaded = record.loaded if asked.loaded is None else asked.loaded
    owner = record.owner if asked.cgroup is None else msgspec.structs.replace(record.owner, cgroup=asked.cgroup)
    marked = msgspec.structs.replace(record, in_use=in_use, loaded=loaded, owner=owner)
    busy = in_use or record.lease_id in state.users
    reply = LeaseMarked(state=record.state, in_use=busy, loaded=loaded)
    if marked == record and not asked.in_use:
        return Decision(reply=reply)
    facts, told = (Marked(marked, used=bool(asked.in_use)),), _told(state, record, marked, now)
    orders = lease_evictions.evict_orders(state, [marked]) if drained and not busy else ()
    return Decision(facts=facts, reply=reply, instructions=(*told, *orders))


def loaded(state: LeaseState, lease_ids: Iterable[str], now: float) -> Decision:
    """Those of the leases that hold a model, and were not said to, are loaded; this is no use of them."""
    facts: list[Fact] = []
    instructions: list[Instruction] = []
    for lease_id in lease_ids:
        record = state.live.get(lease_id)
        if record is not None and record.state == "held" and not record.loaded:
            marked = msgspec.structs.replace(record, loaded=True)
            facts.append(Marked(marked))
            instructions.append(lease_view.announce(state, marked, "marked", now, "seen to be loaded"))
    return Decision(facts=tuple(facts), instructions=tuple(instructions))


def rebind(state: LeaseState, lease_id: str, owner: Owner, now: float) -> Decision:
    """The lease hangs on this process from now on, and no more on the one before."""
    record = state.live.get(lease_id)
    if record is None:
        return Decision(reply=lease_ending.not_current(state, lease_id, 0))
    if record.state == "expiring":
        return Decision(reply=lease_ending.expiring(record))
    bound = msgspec.structs.replace(record, owner=owner)
    if bound == record:
        return Decision(reply=Empty())
    before, after = state.pinned(record.owner), state.pinned(owner)
    instructions: list[Instruction] = []
    if after is not None and after not in state.owned:
        instructions.append(Watch(after))
    if before is not None and before != after and state.owned[before].keys() <= {lease_id}:
        instructions.append(Unwatch(before))
    told = lease_view.announce(state, bound, "marked", now, "hangs on another process")
    return Decision(facts=(Rebound(bound),), reply=Empty(), instructions=(*instructions, told))


def corrections(state: LeaseState, now: float, at: Timestamp, policy: FootprintPolicy) -> Decision:
    """Has each lease count what two looks in a row showed its owner to hold beyond all it leased, and says so."""
    facts: list[Fact] = []
    instructions: list[Instruction] = []
    found = state.book.overdrawn(policy.tolerance_fraction)
    most = {lease_id: (uuid, holding) for uuid, lease_id, holding in sorted(found, key=lambda each: _more(each[2]))}
    for lease_id, (card_uuid, holding) in most.items():
        record, more = state.live[lease_id], _more(holding)
        if record.state == "expiring":
            continue
        reason = (
            f"its process holds {amount(holding.measured_bytes)} on {card_uuid}, "
            f"{amount(more)} more than it leased; counted as {amount(record.bytes + more)}"
        )
        corrected = msgspec.structs.replace(
            record,
            bytes=record.bytes + more,
            declared_bytes=record.declared_bytes or record.bytes,
            reason=reason,
        )
        facts.append(Corrected(corrected))
        note = lease_view.note(corrected, state.host, "corrected", reason, at, details={"was_bytes": record.bytes})
        instructions += lease_view.announce(state, corrected, "corrected", now, reason), note
    return Decision(facts=tuple(facts), instructions=tuple(instructions))


def _more(holding: Holding) -> int:
    return holding.measured_bytes - holding.leased_bytes


def _told(state: LeaseState, record: LeaseRecord, marked: LeaseRecord, now: float) -> tuple[Instruction, ...]:
    """The event of a mark; further uses of a lease in use are counted and not told."""
    return () if marked == record else (lease_view.announce(state, marked, "marked", now),)
