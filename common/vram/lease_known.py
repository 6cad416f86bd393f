"""Which lease a request stands for already: the one under its id or key, one of its owner's that sleeps, one that it would share.

A key means the lease that was granted last under it. Nothing is admitted to a lease that has to go. The functions here decide
and change nothing.
"""

from __future__ import annotations

from common.api.decisions import PlanLease
from common.api.leases import Owner
from common.api.supervisor import AdmitLease
from common.api.words import Timestamp
from common.errors import Conflict, IdempotencyMismatch
from common.vram import lease_ending, lease_view
from common.vram.demand import ModelKey
from common.vram.lease_decision import Decision
from common.vram.lease_facts import End, LeaseRecord
from common.vram.lease_state import LeaseState


def under(state: LeaseState, asked: AdmitLease) -> str | None:
    """The lease that the request stands for already, live or ended; None where it is new."""
    own = state.aliases.get(asked.lease_id, asked.lease_id)
    known = state.keys.get((asked.identity, asked.idempotency_key), own)
    if known != own and asked.anew and known in state.past and state.past[known].lease.end == "released":
        known = own
    return known if known in state.live or known in state.past else None


def again(state: LeaseState, lease_id: str, asked: AdmitLease, now: float, at: Timestamp) -> Decision:
    """The answer for a request that was granted before: its lease again, or why there is none for it any more."""
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


def asleep(state: LeaseState, asked: AdmitLease, known: str | None) -> LeaseRecord | None:
    """The parked lease that the request wakes: its owner's, of this model and config."""
    if known is not None:
        record = state.live.get(known)
        same = record is not None and record.body == lease_view.body_of(asked)
        return record if same and record is not None and record.state == "parked" else None
    for lease_id in state.alike.get(ModelKey(asked.model, asked.config), ()):
        record = state.live[lease_id]
        if record.state == "parked" and _one_owner(state, record, asked.owner or Owner(), asked.identity):
            return record
    return None


def _one_owner(state: LeaseState, record: LeaseRecord, owner: Owner, identity: str) -> bool:
    process = state.pinned(record.owner)
    if process is not None:
        return process == state.pinned(owner)
    return record.owner == owner and record.identity == identity


def shared(state: LeaseState, asked: AdmitLease | PlanLease, now: float) -> LeaseRecord | None:
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
