"""The one writer's table of the leases on one host's cards: what is granted, renewed, ended and refused.

Decisions and facts are apart. A deciding method changes nothing: it returns a Decision with the facts to be committed,
the reply, and the instructions to carry out once they are. `apply` folds a fact in, and is called for
every fact in order, before the next decision. Measurements are no facts: `measure` takes them in directly,
and nothing of them is kept over a restart.

How a lease ends. A lease whose owner process is pinned on this host (pid and start time) lives as long as that process
does; `owner_died` ends it. Any other lease ends when its TTL runs out without a renewal, and is never revived. A card
that is lost ends no lease. A missing measurement ages none.

How a shell drives it:

    table = LeaseTable.restored(host, store, now)       watch table.owners(), tell owner_died of those gone
    commit and apply open_epoch().facts                 FULL, before the first grant
    at each look at the cards                           table.measure(...), then publish table.cards(now)
    at each request                                     decision = table.admit(...); apply and commit the facts
                                                        (lease_facts.rows), then perform the instructions and reply
    twice a second or more                              table.expire(...)
    when a watched process ended                        table.owner_died(...)

An owner arrives with its start time looked up and its host filled in; one with `start_time` 0 counts as not pinned.
After a commit that failed, throw the table away and restore another: a new epoch makes its tokens rise all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from common.api.leases import (
    Card,
    Lease,
    LeaseChanged,
    LeasePlan,
    LeaseRenewed,
    Owner,
    PlanLease,
    ReleaseLease,
    RenewLease,
)
from common.api.supervisor import AdmitLease
from common.api.words import Empty, Timestamp
from common.errors import Conflict, IdempotencyMismatch, NotFound, StaleFence, TandemError, Unavailable
from common.store.protocol import RecordStore
from common.vram import lease_facts, lease_view, placement
from common.vram.cards import CardSample, ProcessId
from common.vram.fencing import EpochSpent, Fence
from common.vram.lease_decision import Announce, Decision, Instruction, Reply, Unwatch, Watch
from common.vram.lease_facts import End, EpochOpened, Fact, Forgotten, Granted, LeaseRecord, Renewed
from common.vram.lease_state import LeaseState
from common.vram.ledger import DEFAULT, UNSEEN, LedgerPolicy
from common.vram.placement import Candidate, Choice, Wish

REMEMBERED_S: Final = 86_400.0
REMEMBERED: Final = 100_000
"""How long, and for how many ended leases, an id and an idempotency key stay taken."""

REASONS: Final[dict[End, str]] = {
    "released": "its holder gave it back",
    "expired": "its TTL ran out without a renewal",
    "owner-died": "the process it hung on ended",
}


class LeaseTable:
    """One host's leases and cards; `now` is this host's monotonic clock in seconds, `at` the time of day for people."""

    def __init__(self, host: str, policy: LedgerPolicy = DEFAULT) -> None:
        self._state = LeaseState(host, policy)

    @classmethod
    def restored(cls, host: str, store: RecordStore, now: float, policy: LedgerPolicy = DEFAULT) -> LeaseTable:
        """The table that the store holds; every TTL starts anew, and an epoch must be opened.

        Raises CorruptRecord, and StorageUnavailable while the store cannot be read.
        """
        table = cls(host, policy)
        for fact in lease_facts.load(store):
            table.apply(fact, now)
        table._state.epoch_open = False
        return table

    def apply(self, fact: Fact, now: float) -> None:
        """Folds a decided fact in; TTLs begin at `now`."""
        self._state.apply(fact, now)

    def measure(self, samples: Sequence[CardSample], tree: Mapping[int, int], problem: str = "") -> None:
        """Takes one look at the host's cards; `problem` says why there was none (card_book.CardBook.measure)."""
        self._state.book.measure(samples, tree, problem)

    def __len__(self) -> int:
        return len(self._state.live)

    def owners(self) -> frozenset[ProcessId]:
        """The pinned processes on which leases hang."""
        return frozenset(self._state.owned)

    def candidates(self, now: float) -> list[Candidate]:
        """The cards as placement sees them."""
        return self._state.book.candidates(now)

    def missing(self) -> dict[str, str]:
        """This host with the reason why cards may be missing or of unknown size; empty when all is known."""
        why = self._state.book.missing()
        return {self._state.host: why} if why else {}

    def cards(self, now: float) -> list[Card]:
        """The cards as the lease verbs show them."""
        return self._state.book.cards(now)

    def leases(self, now: float) -> list[Lease]:
        """The live leases, in the order of their grants."""
        return [self._lease(record, now) for record in self._state.live.values()]

    def plan(self, asked: PlanLease, now: float, kept: Collection[str] = ()) -> LeasePlan:
        """What would happen to the request now; `kept` are cards kept for others."""
        wish = Wish(asked.model, asked.bytes, asked.host, asked.card_uuid)
        return placement.lease_plan(wish, self._choose(wish, now, kept))

    def open_epoch(self) -> Decision:
        """Opens the next fence epoch; its fact must survive power loss before anything is granted."""
        return Decision(facts=(EpochOpened(self._state.fence.next_epoch().epoch),))

    def admit(self, asked: AdmitLease, now: float, at: Timestamp, kept: Collection[str] = ()) -> Decision:
        """Grants the request on the tightest fitting card, or refuses it; it never waits. `kept`: cards kept for others.

        The same lease id, or the same identity and idempotency key, with the same body answers with the same lease, and
        with `conflict` once that lease has ended; another body is `idempotency_mismatch`. What was asked `anew` gets another
        lease where the one under its key was given back.
        """
        state = self._state
        known = state.keys.get((asked.identity, asked.idempotency_key), asked.lease_id)
        if known != asked.lease_id and asked.anew and known in state.past and state.past[known].lease.end == "released":
            known = asked.lease_id
        if known in state.live or known in state.past:
            return self._again(known, lease_view.body_of(asked), now, at)
        if not state.epoch_open:
            return Decision(reply=Unavailable(f"{state.host} has not opened a fence epoch yet", retry_after_ms=200))
        wish = Wish(asked.model, asked.bytes, asked.host, asked.card_uuid)
        choice = self._choose(wish, now, kept)
        if choice.card is None:
            note = lease_view.choice_note(asked, choice, at)
            return Decision(reply=placement.refusal(wish, choice), instructions=(note,))
        return self._grant(asked, choice, choice.card, at)

    def renew(self, asked: RenewLease, now: float, at: Timestamp) -> Decision:
        """Starts the TTL anew. A lease whose TTL has run out ends here, if `expire` has not come to it yet."""
        record = self._state.live.get(asked.lease_id)
        if record is None or record.fencing_token != asked.fencing_token:
            return Decision(reply=self._stale(asked.lease_id))
        if self._overdue(record.lease_id, now):
            gone = StaleFence(f"lease {record.lease_id} expired before this renewal", lease_id=record.lease_id)
            return self._end([record], "expired", now, at, gone)
        note = lease_view.note(record, self._state.host, "renewed", f"for {record.ttl_s:g} s from now", at)
        reply = LeaseRenewed(expires_in_s=record.ttl_s)
        return Decision(facts=(Renewed(record.lease_id),), reply=reply, instructions=(note,))

    def release(self, asked: ReleaseLease, now: float, at: Timestamp) -> Decision:
        """Gives the bytes back. Once more with the same token is no error; with another token it is `stale_fence`."""
        record = self._state.live.get(asked.lease_id)
        if record is not None and record.fencing_token == asked.fencing_token:
            return self._end([record], "released", now, at, Empty())
        past = self._state.past.get(asked.lease_id)
        if past is not None and past.lease.fencing_token == asked.fencing_token:
            return Decision(reply=Empty())
        return Decision(reply=self._stale(asked.lease_id))

    def expire(self, now: float, at: Timestamp) -> Decision:
        """Ends every lease whose TTL has run out, and forgets ended ones beyond REMEMBERED_S and REMEMBERED."""
        late = [self._state.live[lease_id] for lease_id, due in self._state.deadlines.items() if due <= now]
        decision = self._end(late, "expired", now, at)
        old = self._forgettable(now)
        return msgspec.structs.replace(decision, facts=(*decision.facts, Forgotten(old))) if old else decision

    def owner_died(self, pid: int, start_time: int, now: float, at: Timestamp) -> Decision:
        """Ends the leases that hang on this process, on all cards; one with another start time is another process."""
        lease_ids = self._state.owned.get(ProcessId(pid, start_time), {})
        return self._end([self._state.live[lease_id] for lease_id in lease_ids], "owner-died", now, at)

    def _choose(self, wish: Wish, now: float, kept: Collection[str] = ()) -> Choice:
        return placement.choose(wish, self._state.book.candidates(now), kept, missing=self.missing())

    def _grant(self, asked: AdmitLease, choice: Choice, card: Candidate, at: Timestamp) -> Decision:
        fence, opened = self._next_fence()
        record = LeaseRecord(
            lease_id=asked.lease_id,
            model=asked.model,
            bytes=asked.bytes,
            priority=asked.priority,
            card=card.index,
            card_uuid=card.uuid,
            fencing_token=fence.token,
            owner=asked.owner or Owner(),
            identity=asked.identity,
            idempotency_key=asked.idempotency_key,
            body=lease_view.body_of(asked),
            ttl_s=asked.ttl_s,
            granted_at=at,
            base_bytes=self._state.book.base_bytes(card.uuid),
        )
        owner = self._state.pinned(record.owner)
        watch = () if owner is None or owner in self._state.owned else (Watch(owner),)
        lease = lease_view.lease(record, self._state.host, UNSEEN, asked.ttl_s)
        announce = Announce(LeaseChanged(change="granted", lease=lease))
        return Decision(
            facts=(*opened, Granted(record)),
            reply=lease_view.granted(record, self._state.host, asked.ttl_s),
            instructions=(*watch, announce, lease_view.choice_note(asked, choice, at)),
        )

    def _next_fence(self) -> tuple[Fence, tuple[Fact, ...]]:
        try:
            return self._state.fence.next(), ()
        except EpochSpent:
            opened = self._state.fence.next_epoch()
            return opened.next(), (EpochOpened(opened.epoch),)

    def _again(self, lease_id: str, body: str, now: float, at: Timestamp) -> Decision:
        record, past = self._state.live.get(lease_id), self._state.past.get(lease_id)
        if body != (record.body if record else past.lease.body if past else ""):
            return Decision(reply=IdempotencyMismatch(f"{lease_id} was granted for another request", lease_id=lease_id))
        if record is not None and not self._overdue(lease_id, now):
            return Decision(reply=lease_view.granted(record, self._state.host, self._expires_in(record, now)))
        end: End = past.lease.end if past else "expired"
        text = f"lease {lease_id} was granted for this request and has ended: {REASONS[end]}"
        return self._end([record] if record else [], end, now, at, Conflict(text, lease_id=lease_id, end=end))

    def _end(
        self, records: Sequence[LeaseRecord], end: End, now: float, at: Timestamp, reply: Reply | None = None
    ) -> Decision:
        instructions: list[Instruction] = []
        for record in records:
            change = LeaseChanged(change=end, lease=self._lease(record, now), reason=REASONS[end])
            instructions += Announce(change), lease_view.note(record, self._state.host, end, REASONS[end], at)
        gone = {record.lease_id for record in records}
        owners = {owner for record in records if (owner := self._state.pinned(record.owner)) is not None}
        instructions += (Unwatch(owner) for owner in sorted(owners) if self._state.owned[owner].keys() <= gone)
        facts = tuple(lease_facts.ended(record, end) for record in records)
        return Decision(facts=facts, reply=reply, instructions=tuple(instructions))

    def _forgettable(self, now: float) -> tuple[str, ...]:
        old: list[str] = []
        surplus = len(self._state.past) - REMEMBERED
        for lease_id, past in self._state.past.items():
            if len(old) >= surplus and now - past.since <= REMEMBERED_S:
                break
            old.append(lease_id)
        return tuple(old)

    def _stale(self, lease_id: str) -> TandemError:
        if lease_id in self._state.live:
            return StaleFence(f"lease {lease_id} is held under another fencing token", lease_id=lease_id)
        if lease_id in self._state.past:
            end = self._state.past[lease_id].lease.end
            return StaleFence(f"lease {lease_id} has ended: {REASONS[end]}", lease_id=lease_id, end=end)
        return NotFound(f"{self._state.host} knows no lease {lease_id}", lease_id=lease_id)

    def _overdue(self, lease_id: str, now: float) -> bool:
        due = self._state.deadlines.get(lease_id)
        return due is not None and due <= now

    def _expires_in(self, record: LeaseRecord, now: float) -> float:
        due = self._state.deadlines.get(record.lease_id)
        return record.ttl_s if due is None else max(0.0, due - now)

    def _lease(self, record: LeaseRecord, now: float) -> Lease:
        share = self._state.book.share(record.card_uuid, record.lease_id)
        return lease_view.lease(record, self._state.host, share, self._expires_in(record, now))
