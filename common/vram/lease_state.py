"""The state of one host's leases: facts folded, and nothing decided.

The same facts in the same order give the same state. TTLs begin when a fact is applied, so after a restart they begin
anew. An illegal fact (a renewal or an end that fits no lease, a token that does not rise) is our bug and raises.
"""

from __future__ import annotations

import msgspec

from common.api.leases import Owner
from common.vram.card_book import CardBook
from common.vram.cards import ProcessId
from common.vram.fencing import BEFORE_ALL, Fence, parse
from common.vram.lease_facts import Ended, EndedLease, EpochOpened, Fact, Forgotten, Granted, LeaseRecord, Renewed
from common.vram.ledger import DEFAULT, Claim, LedgerPolicy


class Past(msgspec.Struct, frozen=True):
    """An ended lease, and when on this clock it began to be remembered."""

    lease: EndedLease
    since: float


class LeaseState:
    """Who holds what on this host's cards, what has ended, and the place in the order of grants.

    `deadlines` holds only the leases that a TTL can end: those without a process pinned on this host.
    """

    def __init__(self, host: str, policy: LedgerPolicy = DEFAULT) -> None:
        self.host = host
        self.book = CardBook(policy)
        self.fence: Fence = BEFORE_ALL
        self.epoch_open = False
        self.live: dict[str, LeaseRecord] = {}
        self.deadlines: dict[str, float] = {}
        self.owned: dict[ProcessId, dict[str, None]] = {}
        self.past: dict[str, Past] = {}
        self.keys: dict[tuple[str, str], str] = {}

    def apply(self, fact: Fact, now: float) -> None:
        """Folds one fact in; `now` is where TTLs and memories begin."""
        if isinstance(fact, Granted):
            self._granted(fact.record, now)
        elif isinstance(fact, Ended):
            self._ended(fact.lease, now)
        elif isinstance(fact, Renewed):
            if fact.lease_id in self.deadlines:
                self.deadlines[fact.lease_id] = now + self.live[fact.lease_id].ttl_s
        elif isinstance(fact, EpochOpened):
            self.fence, self.epoch_open = max(self.fence, Fence(fact.epoch, 0)), True
        else:
            self._forgotten(fact)

    def pinned(self, owner: Owner) -> ProcessId | None:
        """The owner's process, if it is one of this host and known by its start time as well."""
        if owner.pid and owner.start_time and owner.host in ("", self.host):
            return ProcessId(owner.pid, owner.start_time)
        return None

    def _granted(self, record: LeaseRecord, now: float) -> None:
        fence = parse(record.fencing_token)
        if fence <= self.fence:
            raise ValueError(f"lease {record.lease_id} came with token {fence}, not above {self.fence}")
        self.fence = fence
        self.live[record.lease_id] = record
        self._remember_key(record, record.lease_id)
        owner = self.pinned(record.owner)
        if owner is None:
            self.deadlines[record.lease_id] = now + record.ttl_s
        else:
            self.owned.setdefault(owner, {})[record.lease_id] = None
        self.book.put(record.card_uuid, Claim(record.lease_id, record.bytes, owner, record.base_bytes))

    def _ended(self, lease: EndedLease, now: float) -> None:
        self.past[lease.lease_id] = Past(lease, now)
        self._remember_key(lease, lease.lease_id)
        record = self.live.pop(lease.lease_id, None)
        if record is None:
            return
        self.book.drop(record.card_uuid, record.lease_id)
        owner = self.pinned(record.owner)
        if owner is None:
            del self.deadlines[record.lease_id]
            return
        del self.owned[owner][record.lease_id]
        if not self.owned[owner]:
            del self.owned[owner]

    def _remember_key(self, lease: LeaseRecord | EndedLease, lease_id: str) -> None:
        """A key means the lease granted last under it: facts come in the order of grants, also when they are loaded."""
        if lease.idempotency_key:
            self.keys[lease.identity, lease.idempotency_key] = lease_id

    def _forgotten(self, fact: Forgotten) -> None:
        for lease_id in fact.lease_ids:
            lease = self.past.pop(lease_id).lease
            if self.keys.get((lease.identity, lease.idempotency_key)) == lease_id:
                del self.keys[lease.identity, lease.idempotency_key]
