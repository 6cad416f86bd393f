"""The cards of one host: their last measurements, the leases on them, and so what may be granted on each, now.

It keeps the ledger's accounts up to date between measurements. A grant lowers its card's figure at once; the end of a
lease raises it only as far as the last measurement allows, for bytes that a process still holds are not free. A card that could
not be measured stays in the book, closed, with the reason and with every lease on it.

Room that was made for a request is reserved: nobody else sees those bytes, and of several reservations on a card the
earlier is served first. The book grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from common.api.gpus import Card
from common.vram import overdraft
from common.vram.card_entry import CardEntry, Room
from common.vram.card_figures import figures
from common.vram.cards import CardSample
from common.vram.ledger import (
    DEFAULT,
    UNSEEN,
    Account,
    Claim,
    Holding,
    LedgerPolicy,
    Share,
    capacity,
    staleness,
)
from common.vram.placement import Candidate

GONE: Final = "no longer reported by its host"
NOTHING_LOADS: Final[Mapping[str, str]] = MappingProxyType({})
NOTHING_SEEN: Final[Mapping[str, Share]] = MappingProxyType({})


class CardBook:
    """The measured and leased state of one host's cards; `now` is always this host's monotonic clock, in seconds."""

    def __init__(self, policy: LedgerPolicy = DEFAULT) -> None:
        self.problem = "the cards have not been measured yet"
        self.policy = policy
        self._entries: dict[str, CardEntry] = {}
        self._unsized: dict[str, CardEntry] = {}
        self._waiting: dict[str, dict[str, Claim]] = {}
        self._tree: Mapping[int, int] = {}
        self._ready: tuple[Candidate, ...] = ()
        self._oldest_at = 0.0

    def measure(self, samples: Sequence[CardSample], tree: Mapping[int, int], problem: str = "") -> None:
        """Takes one look at all cards; `problem` says why there was none, and then closes every card.

        A card of an earlier look that this one lacks is closed too, and taken for lost. `tree` maps descendants' pids to pinned
        owners' pids.
        """
        self.problem, self._tree, self._ready = problem, tree, ()
        seen = {sample.uuid: sample for sample in samples}
        for uuid, entry in self._entries.items():
            if uuid not in seen:
                absent = msgspec.structs.replace(entry.sample, problem=problem or GONE, lost=not problem)
                self._see(entry, absent)
        for uuid, sample in seen.items():
            if uuid in self._entries:
                self._see(self._entries[uuid], sample)
            else:
                self._admit(sample)

    def put(self, uuid: str, claim: Claim) -> None:
        """Counts a new lease on the card; a lease whose card was never measured waits for it."""
        entry = self._entries.get(uuid)
        if entry is None:
            self._waiting.setdefault(uuid, {})[claim.lease_id] = claim
            return
        self._ready = ()
        entry.claims[claim.lease_id] = claim
        entry.count(claim, 1)
        if entry.drawn is not None:
            entry.drawn = msgspec.structs.replace(
                entry.drawn,
                grantable_bytes=max(0, entry.drawn.grantable_bytes - claim.bytes),
                room_bytes=entry.drawn.room_bytes - claim.bytes,
                leased_bytes=entry.drawn.leased_bytes + claim.bytes,
            )
            entry.card = None

    def change(self, uuid: str, claim: Claim) -> None:
        """Counts a lease anew: with other bytes, under another owner, or as what its owner would not let go of."""
        entry = self._entries.get(uuid)
        if entry is None:
            self._waiting[uuid][claim.lease_id] = claim
            return
        self._ready = ()
        old = entry.claims[claim.lease_id]
        self._linger(entry, claim.lease_id, old.bytes - claim.bytes)
        entry.count(old, -1)
        entry.claims[claim.lease_id] = claim
        entry.count(claim, 1)
        entry.drawn = None

    def drop(self, uuid: str, lease_id: str) -> None:
        """Counts a lease no longer; nameless bytes that it may have left behind stay counted until they are gone."""
        entry = self._entries.get(uuid)
        if entry is None:
            del self._waiting[uuid][lease_id]
            return
        self._ready = ()
        claim = entry.claims[lease_id]
        self._linger(entry, lease_id, claim.bytes)
        entry.count(claim, -1)
        del entry.claims[lease_id]
        entry.drawn = None

    def reserve(self, uuid: str, lease_id: str, room: Room) -> None:
        """Keeps bytes of the card for a lease id; one that has some keeps its place among the others."""
        self._entries[uuid].rooms[lease_id] = room
        self._ready = ()

    def unreserve(self, uuid: str, lease_id: str) -> None:
        """Keeps nothing for the lease id on the card any more."""
        self._entries[uuid].rooms.pop(lease_id, None)
        self._ready = ()

    def share(self, uuid: str, lease_id: str) -> Share:
        """What the lease is seen to hold."""
        return self.shares(uuid).get(lease_id, UNSEEN)

    def shares(self, uuid: str) -> Mapping[str, Share]:
        """What each lease on the card is seen to hold."""
        entry = self._entries.get(uuid)
        return NOTHING_SEEN if entry is None else self._account(entry).shares

    def tenants(self, uuid: str) -> list[str]:
        """The leases on the card, in the order of their grants; none on a card that was never seen."""
        entry = self._entries.get(uuid)
        return [] if entry is None else [each.lease_id for each in entry.claims.values() if not each.quarantined]

    def base_bytes(self, uuid: str) -> int:
        """The nameless bytes that a lease granted now on the card finds there."""
        return self._account(self._entries[uuid]).base_bytes

    def free_bytes(self, uuid: str) -> int:
        """What the last look showed free on the card; 0 for one that was never seen."""
        entry = self._entries.get(uuid)
        return 0 if entry is None else self._account(entry).free_bytes

    def spare_bytes(self, uuid: str, lease_id: str) -> int:
        """What this lease id could have on the card; below zero by what others hold or were promised beyond it."""
        entry = self._entries[uuid]
        return self._account(entry).room_bytes - entry.ahead_of(lease_id)[0]

    def candidate(self, uuid: str, now: float, lease_id: str = "") -> Candidate | None:
        """One card as placement sees it for this lease id; None where no such card was seen."""
        entry = self._entries.get(uuid)
        return None if entry is None else self._seen_by(entry, now, lease_id)

    def candidates(self, now: float, lease_id: str = "") -> tuple[Candidate, ...]:
        """Every card as placement sees it; for `lease_id`, what is reserved for it and after it is free."""
        oldest = now - self.policy.stale_s
        if self._ready and self._oldest_at >= oldest:
            return self._ready
        tree, policy, entries = self._tree, self.policy, self._entries.values()
        seen = tuple(
            entry.candidate(tree, policy)
            if not entry.rooms and entry.sample.sampled_at >= oldest
            else self._seen_by(entry, now, lease_id)
            for entry in entries
        )
        if not any(entry.rooms for entry in entries):
            self._oldest_at = min((entry.sample.sampled_at for entry in entries), default=0.0)
            self._ready = seen if self._oldest_at >= oldest else ()
        return seen

    def missing(self) -> str:
        """Why cards may be missing or of unknown size; empty when all is known."""
        unsized = (entry.sample for entry in self._unsized.values())
        whys = (f"card {sample.index} {sample.problem or 'has no memory'}" for sample in unsized)
        return "; ".join(filter(None, (self.problem, *whys)))

    def lost(self, now: float) -> frozenset[str]:
        """The cards that have been gone from the bus for longer than the grace."""
        grace = self.policy.lost_grace_s
        return frozenset(
            uuid
            for uuid, entry in self._entries.items()
            if entry.sample.lost and entry.lost_at is not None and now - entry.lost_at > grace
        )

    def overdrawn(self, tolerance: float) -> Iterator[tuple[str, str, Holding]]:
        """Card, lease and what its owner holds, of each that two looks in a row showed to hold too much (1 + tolerance)."""
        for uuid, entry in self._entries.items():
            if not entry.sample.problem and entry.before is not None:
                for lease_id, holding in overdraft.overdrawn(entry.before, self._account(entry), tolerance):
                    yield uuid, lease_id, holding

    def doubtful(self, uuid: str) -> bool:
        """Whether an owner on the card may hold more by now than it leased, as fast as the last two looks showed it to grow."""
        entry = self._entries[uuid]
        return overdraft.may_be(entry.before, self._account(entry), entry.sample.sampled_at - entry.before_at)

    def quarantined_bytes(self, uuid: str, lease_id: str, now: float) -> int | None:
        """What a quarantined lease's owner is still seen to hold; None while the card cannot tell."""
        entry = self._entries.get(uuid)
        if entry is None or entry.sample.problem or staleness(entry.sample.sampled_at, now, self.policy):
            return None
        return _held(self._account(entry), entry.claims[lease_id])

    def cards(self, now: float, loading: Mapping[str, str] = NOTHING_LOADS) -> list[Card]:
        """Every card as the lease verbs show it; `loading` names the model being loaded, by card.

        They are shown after every change; what a request will find is made ready with it.
        """
        self.candidates(now)
        return [self._card(entry, now, loading.get(uuid, "")) for uuid, entry in self._entries.items()]

    def _admit(self, sample: CardSample) -> None:
        entry = self._entries[sample.uuid] = CardEntry(sample)
        entry.claims = self._waiting.pop(sample.uuid, {})
        for claim in entry.claims.values():
            entry.count(claim, 1)
        self._size(entry)

    def _see(self, entry: CardEntry, sample: CardSample) -> None:
        if not entry.sample.problem:
            entry.before, entry.before_at = self._account(entry), entry.sample.sampled_at
        if sample.lost and entry.lost_at is None:
            entry.lost_at = entry.sample.sampled_at
        entry.sample, entry.drawn = sample, None
        if sample.problem:
            return
        entry.lost_at = None
        self._size(entry)
        if entry.lingering_bytes and entry.before is not None:
            gone = entry.before.nameless_bytes - self._account(entry).nameless_bytes
            entry.lingering_bytes = max(0, entry.lingering_bytes - max(0, gone))
            entry.drawn = None

    def _linger(self, entry: CardEntry, lease_id: str, bytes: int) -> None:
        """Of `bytes` that a lease no longer counts, those that may be among the nameless ones linger."""
        last = entry.before if entry.sample.problem else self._account(entry)
        if bytes > 0 and last is not None and last.shares.get(lease_id, UNSEEN).measured_bytes == 0:
            left = max(0, last.nameless_bytes - last.base_bytes)
            entry.lingering_bytes = min(entry.lingering_bytes + bytes, left)

    def _size(self, entry: CardEntry) -> None:
        if not entry.sample.problem:
            entry.capacity_bytes = capacity(entry.sample.total_bytes, self.policy)
            entry.card = None
        if entry.capacity_bytes == 0:
            self._unsized[entry.sample.uuid] = entry
        else:
            self._unsized.pop(entry.sample.uuid, None)

    def _account(self, entry: CardEntry) -> Account:
        return entry.account(self._tree, self.policy)

    def _seen_by(self, entry: CardEntry, now: float, lease_id: str) -> Candidate:
        card, why = entry.candidate(self._tree, self.policy), self._why_closed(entry, now)
        ahead, exclusive, others = entry.ahead_of(lease_id)
        return msgspec.structs.replace(
            card,
            grantable_bytes=0 if why else max(0, card.grantable_bytes - ahead),
            problem=why,
            leases=card.leases + others,
            exclusive=card.exclusive or exclusive,
        )

    def _why_closed(self, entry: CardEntry, now: float) -> str:
        return self._account(entry).problem or staleness(entry.sample.sampled_at, now, self.policy)

    def _card(self, entry: CardEntry, now: float, loading: str) -> Card:
        drawn = self._account(entry)
        quarantined = sum(_held(drawn, claim) for claim in entry.claims.values() if claim.quarantined)
        rooms = {lease_id: room.bytes for lease_id, room in entry.rooms.items()}
        card = figures(entry.sample, drawn, self.policy, self._why_closed(entry, now))
        return msgspec.structs.replace(
            card,
            grantable_bytes=max(0, card.grantable_bytes - sum(rooms.values())),
            reserved_bytes=sum(rooms.values()),
            reservations=rooms,
            quarantined_bytes=quarantined,
            pinned_bytes=entry.pinned_bytes,
            loading=loading,
        )


def _held(drawn: Account, claim: Claim) -> int:
    """What of a quarantined claim is still there; where the card hides processes, what its nameless bytes leave room for."""
    share = drawn.shares.get(claim.lease_id, UNSEEN)
    if share.verified or share.measured_bytes:
        return share.measured_bytes
    return min(claim.bytes, max(0, drawn.nameless_bytes - claim.base_bytes))
