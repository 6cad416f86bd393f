"""The state of one host's leases: facts folded, and nothing decided.

The same facts in the same order give the same state. TTLs begin when a fact is applied, so after a restart they begin
anew. An illegal fact (a renewal or an end that fits no lease, a token that does not rise) is our bug and raises.

Beside the leases it remembers how they are used: when each was used last, how often each model is, and so how far ahead an
eviction looks. Of this, and of room reserved for requests, nothing outlives a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from common.api.leases import Owner
from common.vram.card_book import CardBook
from common.vram.card_entry import Room
from common.vram.cards import ProcessId
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.fencing import BEFORE_ALL, Fence, parse
from common.vram.footprint import Footprints
from common.vram.lease_facts import (
    CHANGED,
    Changed,
    Ended,
    EndedLease,
    EpochOpened,
    Expiring,
    Fact,
    Forgotten,
    Granted,
    HostReserved,
    LeaseRecord,
    Marked,
    Quarantine,
    Quarantined,
    QuarantineLifted,
    Renewed,
    Reserved,
    Unparked,
    Unreserved,
)
from common.vram.ledger import DEFAULT, Claim, LedgerPolicy
from common.vram.resources import HostAccount

K = TypeVar("K")


class Past(msgspec.Struct, frozen=True):
    """An ended lease, and when on this clock it began to be remembered."""

    lease: EndedLease
    since: float


class LeaseState:
    """Who holds what on this host's cards, what has ended, and the place in the order of grants.

    `deadlines` holds only the leases that a TTL can end: those without a process pinned on this host. `owned` names the leases
    and quarantines of each pinned process, `users` the shares of each lease, `alike` the leases with bytes of each model and
    config. `used_at` is when each was last used, the longest unused first. `aliases` are the parked leases that were asked for
    under other ids, `reservations` what is kept by lease id and card, `host_rooms` what is kept of the host beside its cards.
    """

    def __init__(self, host: str, policy: LedgerPolicy = DEFAULT, footprints: Footprints | None = None) -> None:
        self.host = host
        self.footprints = footprints if footprints is not None else Footprints(host)
        self.book = CardBook(policy)
        self.resources = HostAccount()
        self.fence: Fence = BEFORE_ALL
        self.epoch_open = False
        self.live: dict[str, LeaseRecord] = {}
        self.deadlines: dict[str, float] = {}
        self.owned: dict[ProcessId, dict[str, None]] = {}
        self.users: dict[str, dict[str, None]] = {}
        self.alike: dict[ModelKey, dict[str, None]] = {}
        self.past: dict[str, Past] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.aliases: dict[str, str] = {}
        self.quarantines: dict[str, Quarantine] = {}
        self.reservations: dict[str, dict[str, Reserved]] = {}
        self.host_rooms: dict[str, HostReserved] = {}
        self.demand = Demand()
        self.horizon = Horizon()
        self.used_at: dict[str, float] = {}

    def apply(self, fact: Fact, now: float) -> None:
        """Folds one fact in; `now` is where TTLs and memories begin."""
        _FOLDS[type(fact)](self, fact, now)

    def observe(self, fact: Fact, now: float) -> None:
        """Learns from a fact, just applied, how the leases are used."""
        if isinstance(fact, Granted | Unparked) or (isinstance(fact, Marked) and fact.used):
            record = fact.record
            self.demand.used(key_of(record), now)
            self._used(record.shares or record.lease_id, now)
        elif isinstance(fact, Marked):
            self._used(fact.record.lease_id, now)
        elif isinstance(fact, Expiring):
            self.horizon.evicted(fact.idle_s)

    def pinned(self, owner: Owner) -> ProcessId | None:
        """The owner's process, if it is one of this host and known by its start time as well."""
        if owner.pid and owner.start_time and (not owner.host or owner.host == self.host):
            return ProcessId(owner.pid, owner.start_time)
        return None

    def has_room(self, lease_id: str) -> bool:
        """Whether anything is kept for the lease id, on cards or beside them."""
        return lease_id in self.reservations or lease_id in self.host_rooms

    def in_use(self, record: LeaseRecord) -> bool:
        """Whether its holder says so, or anybody shares it."""
        return record.in_use or record.lease_id in self.users

    def idle_s(self, record: LeaseRecord, now: float) -> float:
        """Seconds since its last use; 0 while it is in use."""
        return 0.0 if self.in_use(record) else max(0.0, now - self.used_at[record.lease_id])

    def _opened(self, fact: EpochOpened, _now: float) -> None:
        self.fence, self.epoch_open = max(self.fence, Fence(fact.epoch, 0)), True

    def _renewed(self, fact: Renewed, now: float) -> None:
        if fact.lease_id in self.deadlines:
            self.deadlines[fact.lease_id] = now + self.live[fact.lease_id].ttl_s

    def _granted(self, fact: Granted, now: float) -> None:
        record = fact.record
        self._rise(record)
        self.live[record.lease_id] = record
        self._remember_key(record)
        self._hang(record, now)
        if record.shares:
            self.users.setdefault(record.shares, {})[record.lease_id] = None
        else:
            self.alike.setdefault(key_of(record), {})[record.lease_id] = None
        if record.asked_as:
            self.aliases[record.asked_as] = record.lease_id
        self.used_at[record.lease_id] = now
        for uuid, base in record.places:
            self.book.put(uuid, self._claim(record, base))
        self._count_host(record)

    def _changed(self, fact: Changed, now: float) -> None:
        record = fact.record
        old = self.live[record.lease_id]
        if record.fencing_token != old.fencing_token:
            self._rise(record)
            self._forget_key(old)
            self._remember_key(record)
        self.live[record.lease_id] = record
        if record.owner != old.owner or record.given_back or record.fencing_token != old.fencing_token:
            self._let_go(old)
            self._hang(record, now)
        if record.asked_as and record.asked_as != old.asked_as:
            self.aliases.pop(old.asked_as, None)
            self.aliases[record.asked_as] = record.lease_id
        for (uuid, before), (_, base) in zip(old.places, record.places, strict=True):
            claim = self._claim(record, base)
            if claim != self._claim(old, before):
                self.book.change(uuid, claim)
        self._count_host(record)

    def _ended(self, fact: Ended, now: float) -> None:
        lease = fact.lease
        self.past[lease.lease_id] = Past(lease, now)
        self._remember_key(lease)
        record = self.live.pop(lease.lease_id, None)
        if record is None:
            return
        self._let_go(record)
        self.aliases.pop(record.asked_as, None)
        if record.shares:
            _discard(self.users, record.shares, record.lease_id)
            self._used(record.shares, now)
        else:
            _discard(self.alike, key_of(record), record.lease_id)
        del self.used_at[record.lease_id]
        self.resources.drop(record.lease_id)
        quarantine = self.quarantines.get(record.lease_id)
        for uuid, base in record.places:
            if quarantine is None:
                self.book.drop(uuid, record.lease_id)
            else:
                self.book.change(uuid, self._held_back(quarantine, base))
        if quarantine is not None:
            self._watch(quarantine)

    def _used(self, lease_id: str, now: float) -> None:
        """Remembers a use, or the end of one, after all earlier ones."""
        del self.used_at[lease_id]
        self.used_at[lease_id] = now

    def _claim(self, record: LeaseRecord, base_bytes: int) -> Claim:
        owner, alone = self.pinned(record.owner), record.exclusive and record.state != "parked"
        return Claim(record.lease_id, record.bytes, owner, base_bytes, record.pinned, alone)

    def _held_back(self, quarantine: Quarantine, base_bytes: int) -> Claim:
        return Claim(quarantine.lease_id, quarantine.bytes, quarantine.owner, base_bytes, quarantined=True)

    def _rise(self, record: LeaseRecord) -> None:
        fence = parse(record.fencing_token)
        if fence <= self.fence:
            raise ValueError(f"lease {record.lease_id} came with token {fence}, not above {self.fence}")
        self.fence = fence

    def _hang(self, record: LeaseRecord, now: float) -> None:
        """The lease hangs on its owner's process, or else on its TTL; on neither while only its shares keep it."""
        owner = self.pinned(record.owner)
        if owner is not None:
            self.owned.setdefault(owner, {})[record.lease_id] = None
        elif not record.given_back:
            self.deadlines[record.lease_id] = now + record.ttl_s

    def _let_go(self, record: LeaseRecord) -> None:
        self.deadlines.pop(record.lease_id, None)
        owner = self.pinned(record.owner)
        if owner is not None:
            _discard(self.owned, owner, record.lease_id)

    def _count_host(self, record: LeaseRecord) -> None:
        ram = record.ram_bytes + record.parked_bytes
        self.resources.put(record.lease_id, ram, record.disk_bytes, record.cpu_cores, record.model)

    def _quarantined(self, fact: Quarantined, _now: float) -> None:
        quarantine = fact.quarantine
        self.quarantines[quarantine.lease_id] = quarantine
        if quarantine.lease_id not in self.live:
            for place in quarantine.places:
                self.book.put(place.uuid, self._held_back(quarantine, place.base_bytes))
            self._watch(quarantine)

    def _watch(self, quarantine: Quarantine) -> None:
        self.owned.setdefault(quarantine.owner, {})[quarantine.lease_id] = None

    def _lifted(self, fact: QuarantineLifted, _now: float) -> None:
        quarantine = self.quarantines.pop(fact.lease_id)
        for place in quarantine.places:
            self.book.drop(place.uuid, quarantine.lease_id)
        _discard(self.owned, quarantine.owner, quarantine.lease_id)

    def _reserved(self, fact: Reserved, _now: float) -> None:
        self.reservations.setdefault(fact.lease_id, {})[fact.card_uuid] = fact
        self.book.reserve(fact.card_uuid, fact.lease_id, Room(fact.bytes, fact.exclusive))

    def _host_reserved(self, fact: HostReserved, _now: float) -> None:
        self.host_rooms[fact.lease_id] = fact
        wanted = fact.ram_bytes, fact.disk_bytes, fact.cpu_cores
        self.resources.keep(fact.lease_id, *wanted, own=fact.own, model=fact.model)

    def _unreserved(self, fact: Unreserved, _now: float) -> None:
        if self.host_rooms.pop(fact.lease_id, None) is not None:
            self.resources.keep_nothing(fact.lease_id)
        for uuid in self.reservations.pop(fact.lease_id, {}):
            self.book.unreserve(uuid, fact.lease_id)

    def _remember_key(self, lease: LeaseRecord | EndedLease) -> None:
        """A key means the lease granted last under it: facts come in the order of grants, also when they are loaded."""
        if lease.idempotency_key:
            self.keys[lease.identity, lease.idempotency_key] = lease.lease_id

    def _forgotten(self, fact: Forgotten, _now: float) -> None:
        for lease_id in fact.lease_ids:
            self._forget_key(self.past.pop(lease_id).lease)

    def _forget_key(self, lease: LeaseRecord | EndedLease) -> None:
        if self.keys.get((lease.identity, lease.idempotency_key)) == lease.lease_id:
            del self.keys[lease.identity, lease.idempotency_key]


_FOLDS: Final[dict[type, Callable[[LeaseState, Any, float], None]]] = {
    EpochOpened: LeaseState._opened,
    Granted: LeaseState._granted,
    Renewed: LeaseState._renewed,
    Ended: LeaseState._ended,
    Quarantined: LeaseState._quarantined,
    QuarantineLifted: LeaseState._lifted,
    Reserved: LeaseState._reserved,
    HostReserved: LeaseState._host_reserved,
    Unreserved: LeaseState._unreserved,
    Forgotten: LeaseState._forgotten,
    **dict.fromkeys(CHANGED, LeaseState._changed),
}


def key_of(record: LeaseRecord) -> ModelKey:
    """What the lease loads."""
    return ModelKey(record.model, record.config)


def _discard(index: dict[K, dict[str, None]], key: K, lease_id: str) -> None:
    """Takes a lease id off an index, and the key with its last one."""
    del index[key][lease_id]
    if not index[key]:
        del index[key]
