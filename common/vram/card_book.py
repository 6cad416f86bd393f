"""The cards of one host: their last measurements, the leases on them, and so what may be granted on each, now.

It keeps the ledger's accounts up to date between measurements. A grant lowers its card's figure at once; the end of a
lease raises it only as far as the last measurement allows, for bytes that a process still holds are not free. A card that could
not be measured stays in the book, closed, with the reason and with every lease on it. The book grants nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from common.api.leases import Card
from common.vram.cards import CardSample
from common.vram.ledger import DEFAULT, UNSEEN, Account, Claim, LedgerPolicy, Share, account, capacity, staleness
from common.vram.placement import Candidate

GONE = "no longer reported by its host"


class _Entry:
    """One card: its last look, the account drawn from it, and the account of the last good look before it."""

    def __init__(self, sample: CardSample) -> None:
        self.sample = sample
        self.capacity_bytes = 0
        self.claims: dict[str, Claim] = {}
        self.lingering_bytes = 0
        self.before: Account | None = None
        self.drawn: Account | None = None
        self.card: Candidate | None = None

    def account(self, tree: Mapping[int, int], policy: LedgerPolicy) -> Account:
        """The account as it stands; drawn up anew only when a look or the end of a lease made it old."""
        if self.drawn is None:
            base = self.before.base_bytes if self.before else None
            claims = self.claims.values()
            self.drawn = account(self.sample, claims, tree, policy, base, self.lingering_bytes)
            self.card = None
        return self.drawn

    def candidate(self, tree: Mapping[int, int], policy: LedgerPolicy) -> Candidate:
        """The card as placement sees it, if its measurement is recent."""
        drawn = self.account(tree, policy)
        if self.card is None:
            at, free = self.sample, drawn.grantable_bytes
            self.card = Candidate(at.host, at.index, at.uuid, free, self.capacity_bytes, drawn.problem)
        return self.card


class CardBook:
    """The measured and leased state of one host's cards; `now` is always this host's monotonic clock, in seconds."""

    def __init__(self, policy: LedgerPolicy = DEFAULT) -> None:
        self.problem = "the cards have not been measured yet"
        self._policy = policy
        self._entries: dict[str, _Entry] = {}
        self._waiting: dict[str, dict[str, Claim]] = {}
        self._tree: Mapping[int, int] = {}

    def measure(self, samples: Sequence[CardSample], tree: Mapping[int, int], problem: str = "") -> None:
        """Takes one look at all cards; `problem` says why there was none, and then closes every card.

        A card of an earlier look that this one lacks is closed too. `tree` maps descendants' pids to pinned owners' pids.
        """
        self.problem, self._tree = problem, tree
        seen = {sample.uuid: sample for sample in samples}
        for uuid, entry in self._entries.items():
            if uuid not in seen:
                self._see(entry, msgspec.structs.replace(entry.sample, problem=problem or GONE))
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
        entry.claims[claim.lease_id] = claim
        if entry.drawn is not None:
            entry.drawn = msgspec.structs.replace(
                entry.drawn,
                grantable_bytes=max(0, entry.drawn.grantable_bytes - claim.bytes),
                leased_bytes=entry.drawn.leased_bytes + claim.bytes,
            )
            entry.card = None

    def drop(self, uuid: str, lease_id: str) -> None:
        """Counts a lease no longer; nameless bytes that it may have left behind stay counted until they are gone."""
        entry = self._entries.get(uuid)
        if entry is None:
            del self._waiting[uuid][lease_id]
            return
        last = entry.before if entry.sample.problem else self._account(entry)
        claim = entry.claims.pop(lease_id)
        if last is not None and last.shares.get(lease_id, UNSEEN).measured_bytes == 0:
            left = max(0, last.nameless_bytes - last.base_bytes)
            entry.lingering_bytes = min(entry.lingering_bytes + claim.bytes, left)
        entry.drawn = None

    def share(self, uuid: str, lease_id: str) -> Share:
        """What the lease is seen to hold."""
        entry = self._entries.get(uuid)
        return UNSEEN if entry is None else self._account(entry).shares.get(lease_id, UNSEEN)

    def base_bytes(self, uuid: str) -> int:
        """The nameless bytes that a lease granted now on the card finds there."""
        return self._account(self._entries[uuid]).base_bytes

    def candidates(self, now: float) -> list[Candidate]:
        """Every card as placement sees it."""
        tree, policy = self._tree, self._policy
        oldest = now - policy.stale_s
        return [
            entry.candidate(tree, policy) if entry.sample.sampled_at >= oldest else self._stale(entry, now)
            for entry in self._entries.values()
        ]

    def missing(self) -> str:
        """Why cards may be missing or of unknown size; empty when all is known."""
        unsized = [entry.sample for entry in self._entries.values() if entry.capacity_bytes == 0]
        whys = (f"card {sample.index} {sample.problem or 'has no memory'}" for sample in unsized)
        return "; ".join(filter(None, (self.problem, *whys)))

    def cards(self, now: float) -> list[Card]:
        """Every card as the lease verbs show it."""
        return [self._card(entry, now) for entry in self._entries.values()]

    def _admit(self, sample: CardSample) -> None:
        entry = self._entries[sample.uuid] = _Entry(sample)
        entry.claims = self._waiting.pop(sample.uuid, {})
        self._size(entry)

    def _see(self, entry: _Entry, sample: CardSample) -> None:
        if not entry.sample.problem:
            entry.before = self._account(entry)
        entry.sample, entry.drawn = sample, None
        if sample.problem:
            return
        self._size(entry)
        if entry.lingering_bytes and entry.before is not None:
            gone = entry.before.nameless_bytes - self._account(entry).nameless_bytes
            entry.lingering_bytes = max(0, entry.lingering_bytes - max(0, gone))
            entry.drawn = None

    def _size(self, entry: _Entry) -> None:
        if not entry.sample.problem:
            entry.capacity_bytes = capacity(entry.sample.total_bytes, self._policy)

    def _account(self, entry: _Entry) -> Account:
        return entry.account(self._tree, self._policy)

    def _stale(self, entry: _Entry, now: float) -> Candidate:
        card, why = entry.candidate(self._tree, self._policy), self._why_closed(entry, now)
        return msgspec.structs.replace(card, grantable_bytes=0, problem=why)

    def _why_closed(self, entry: _Entry, now: float) -> str:
        return self._account(entry).problem or staleness(entry.sample.sampled_at, now, self._policy)

    def _card(self, entry: _Entry, now: float) -> Card:
        sample, drawn, reason = entry.sample, self._account(entry), self._why_closed(entry, now)
        return Card(
            host=sample.host,
            card=sample.index,
            card_uuid=sample.uuid,
            name=sample.name,
            total_bytes=sample.total_bytes,
            free_bytes=sample.free_bytes,
            leased_bytes=drawn.leased_bytes,
            used_bytes=sample.used_bytes,
            grantable_bytes=0 if reason else drawn.grantable_bytes,
            simulated=sample.simulated,
            schedulable=not reason,
            reason=reason,
            temperature_c=sample.temperature_c,
            utilization_pct=sample.utilization_pct,
            strangers=list(drawn.strangers),
        )
