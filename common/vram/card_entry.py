"""One card of a host in its book: the last look at it, the leases on it, what is reserved there, and the account of these.

It draws up and counts; the book says when what was drawn has become old.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from common.vram.cards import CardSample
from common.vram.ledger import Account, Claim, LedgerPolicy, account
from common.vram.placement import Candidate


class Room(NamedTuple):
    """What is reserved on a card for one lease id."""

    bytes: int
    exclusive: bool


class CardEntry:
    """One card: its last look, the account drawn from it, and the account of the last good look before it."""

    def __init__(self, sample: CardSample) -> None:
        self.sample = sample
        self.capacity_bytes = 0
        self.claims: dict[str, Claim] = {}
        self.rooms: dict[str, Room] = {}
        self.leases = 0
        self.exclusives = 0
        self.pinned_bytes = 0
        self.lingering_bytes = 0
        self.lost_at = sample.sampled_at if sample.lost else None
        self.before: Account | None = None
        self.before_at = sample.sampled_at
        self.drawn: Account | None = None
        self.card: Candidate | None = None

    def count(self, claim: Claim, sign: int) -> None:
        """Counts a lease on the card, or no longer (`sign` -1); what is quarantined is no lease."""
        if not claim.quarantined:
            self.leases += sign
            self.exclusives += sign * claim.exclusive
            self.pinned_bytes += sign * claim.bytes * claim.pinned

    def account(self, tree: Mapping[int, int], policy: LedgerPolicy) -> Account:
        """The account as it stands; drawn up anew only when a look or the end of a lease made it old."""
        if self.drawn is None:
            base = self.before.base_bytes if self.before else None
            claims = self.claims.values()
            self.drawn = account(self.sample, claims, tree, policy, base, self.lingering_bytes)
            self.card = None
        return self.drawn

    def candidate(self, tree: Mapping[int, int], policy: LedgerPolicy) -> Candidate:
        """The card as placement sees it, if its measurement is recent and nothing on it is reserved."""
        drawn = self.account(tree, policy)
        if self.card is None:
            at = self.sample
            self.card = Candidate(
                at.host,
                at.index,
                at.uuid,
                drawn.grantable_bytes,
                self.capacity_bytes,
                drawn.problem,
                self.leases,
                self.exclusives > 0,
                self.pinned_bytes,
            )
        return self.card

    def ahead_of(self, lease_id: str) -> tuple[int, bool, int]:
        """Of the reservations of others: the bytes served before this one, whether one of those is exclusive, and how many."""
        ahead, exclusive = 0, False
        for holder, room in self.rooms.items():
            if holder == lease_id:
                break
            ahead, exclusive = ahead + room.bytes, exclusive or room.exclusive
        return ahead, exclusive, len(self.rooms) - (lease_id in self.rooms)
