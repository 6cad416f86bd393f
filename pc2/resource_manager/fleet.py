"""The planner's view of all hosts' cards and leases: a copy to plan by, never to decide by.

Each supervisor's cards are as it last published them. From a card's grantable bytes the view takes the grants in flight:
leases asked for that the published figures cannot show yet. Such a grant counts until the supervisor told of the lease
and then published its cards, or published them long enough after it answered, or until the lease ended. The bytes of a
lease that the figures show and that has ended since are taken for free until the next figures: whether they are is for
the supervisor to see, which is asked. A host that is lost or silent keeps its cards here, closed, with the reason. The
view asks nobody and grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.api.leases import Card, CardsSampled, Lease, LeaseChanged, Leases
from common.vram.eviction import Resident
from common.vram.lease_facts import ENDS
from common.vram.ledger import DEFAULT, LedgerPolicy, capacity
from common.vram.placement import Candidate
from common.vram.ranking import Site
from pc2.resource_manager import residents

UNHEARD = "has not been heard from yet"


@dataclass(slots=True)
class _Flight:
    """One grant in flight: bytes asked for on a card; `makes_room` where others have to go for it first."""

    host: str
    card_uuid: str
    bytes: int
    makes_room: bool = False
    shown: bool = False
    admitted_at: float | None = None


@dataclass(slots=True)
class _Host:
    """What one supervisor last said; `absent` is why it cannot be asked, `paused_until` until when it rests.

    `tenants` are the leases with bytes of their own, by card. `shown` are the leases that the cards' figures include,
    `freed` the bytes by card of those of them that have ended.
    """

    absent: str = UNHEARD
    problem: str = ""
    heard_at: float | None = None
    paused_until: float = 0.0
    cards: dict[str, Card] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    said_at: dict[str, float] = field(default_factory=dict)
    tenants: dict[str, dict[str, Lease]] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    freed: dict[str, int] = field(default_factory=dict)
    caps: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)


class Fleet:
    """All hosts as last heard; `now` is the planner's monotonic clock in seconds."""

    def __init__(self, hosts: Iterable[str], policy: LedgerPolicy = DEFAULT) -> None:
        self._policy = policy
        self._hosts = {host: _Host() for host in hosts}
        self._flights: dict[str, _Flight] = {}

    def sampled(self, host: str, event: CardsSampled, now: float) -> None:
        """Takes in a host's cards as it published them; figures it was refused by are believed again."""
        view = self._hosts[host]
        view.heard_at, view.problem = now, event.problem
        view.caps.clear()
        if event.cards or not event.problem:
            view.cards = {card.card_uuid: card for card in event.cards}
            view.shown = set(view.leases)
            view.freed.clear()
        settled = [
            lease_id for lease_id, flight in self._flights.items() if flight.host == host and self._seen(flight, now)
        ]
        for lease_id in settled:
            del self._flights[lease_id]

    def listed(self, host: str, listing: Leases, now: float) -> None:
        """Takes in the whole table of a host's leases."""
        view = self._hosts[host]
        view.leases, view.said_at, view.tenants = {}, {}, {}
        for lease in listing.leases:
            self._said(view, lease, now)
            self._show(lease.lease_id, host)

    def changed(self, host: str, event: LeaseChanged, now: float) -> None:
        """Takes in one change of a lease; `may-return` is none, for it shows the lease as it was before it made way."""
        if event.change == "may-return":
            return
        if event.change in ENDS:
            self._ended(host, event.lease)
            return
        self._said(self._hosts[host], event.lease, now)
        self._show(event.lease.lease_id, host)

    def lost(self, host: str, reason: str) -> None:
        """Closes the host's cards until it is back."""
        self._hosts[host].absent = reason

    def back(self, host: str) -> None:
        """The host can be asked again; its cards stay closed until it has published them."""
        self._hosts[host].absent = ""

    def claim(self, lease_id: str, card: Candidate, bytes: int, *, makes_room: bool = False) -> None:
        """Counts a grant in flight on the card; on one where room is being made, no more is made meanwhile."""
        self._flights[lease_id] = _Flight(card.host, card.uuid, bytes, makes_room)

    def admitted(self, lease_id: str, now: float) -> None:
        """The supervisor answered yes; its figures will show it."""
        if lease_id in self._flights:
            self._flights[lease_id].admitted_at = now

    def unclaim(self, lease_id: str) -> None:
        """Nothing is in flight under this id."""
        self._flights.pop(lease_id, None)

    def cap(self, host: str, card_uuid: str, bytes: int) -> None:
        """Believes less than `bytes` of the card until the host publishes its figures again: it refused that many."""
        caps = self._hosts[host].caps
        caps[card_uuid] = min(caps.get(card_uuid, bytes), bytes)

    def limit(self, host: str, card_uuid: str, bytes: int) -> None:
        """Believes for good that the card can never hold `bytes`: its host said so."""
        limits = self._hosts[host].limits
        limits[card_uuid] = min(limits.get(card_uuid, bytes), bytes)

    def pause(self, host: str, until: float) -> None:
        """Closes the host's cards for a moment: it could not take a request."""
        self._hosts[host].paused_until = until

    def candidates(self, now: float) -> list[Candidate]:
        """Every card known, as placement sees it."""
        in_flight: dict[tuple[str, str], int] = {}
        for flight in self._flights.values():
            place = flight.host, flight.card_uuid
            in_flight[place] = in_flight.get(place, 0) + flight.bytes
        return [
            self._candidate(view, card, self._closed(view, now), in_flight.get((host, card.card_uuid), 0))
            for host, view in self._hosts.items()
            for card in view.cards.values()
        ]

    def sites(self, now: float, need_bytes: int) -> list[Site]:
        """The open cards where room may be made for so many bytes, with who is on them.

        Not where room is being made already, and not where the host refused as much since it last published.
        """
        making = {(flight.host, flight.card_uuid) for flight in self._flights.values() if flight.makes_room}
        return [
            Site(card, *self._on(card, now))
            for card in self.candidates(now)
            if not card.problem
            and (card.host, card.uuid) not in making
            and self._hosts[card.host].caps.get(card.uuid, need_bytes + 1) > need_bytes
        ]

    def sharable(self, model: str, config: str, host: str, card_uuid: str, now: float) -> Lease | None:
        """A lease of the model that a request for this host and card may share; None where none is known to live."""
        for name, view in self._hosts.items():
            if host in ("", name) and not self._closed(view, now):
                for lease in view.leases.values():
                    same = (lease.model, lease.config) == (model, config) and lease.state == "held"
                    if same and not lease.shares and (not card_uuid or card_uuid in residents.cards_of(lease)):
                        return lease
        return None

    def missing(self, now: float) -> dict[str, str]:
        """Per host that cannot be asked, or whose cards are not all known, the reason."""
        reasons = {host: self._closed(view, now) for host, view in self._hosts.items()}
        return {host: reason for host, reason in reasons.items() if reason}

    def reachable(self, host: str) -> bool:
        """Whether the host can be asked."""
        return host in self._hosts and not self._hosts[host].absent

    def cards(self, host: str = "") -> list[Card]:
        """The cards of all hosts or one, as last published."""
        return [card for name, view in self._hosts.items() if host in ("", name) for card in view.cards.values()]

    def leases(self, host: str = "") -> list[Lease]:
        """The leases of all hosts or one, as last told."""
        return [lease for name, view in self._hosts.items() if host in ("", name) for lease in view.leases.values()]

    def host_of(self, lease_id: str) -> str:
        """The host whose table has the lease; empty where none is known to."""
        return next((host for host, view in self._hosts.items() if lease_id in view.leases), "")

    def _candidate(self, view: _Host, card: Card, closed: str, in_flight: int) -> Candidate:
        limit = view.limits.get(card.card_uuid)
        most = capacity(card.total_bytes, self._policy) if limit is None else limit - 1
        free = card.grantable_bytes + view.freed.get(card.card_uuid, 0) - in_flight
        free = min(free, view.caps.get(card.card_uuid, free + 1) - 1, most)
        problem = closed or ("" if card.schedulable else card.reason or "not schedulable")
        there = view.tenants.get(card.card_uuid, {})
        return Candidate(
            card.host,
            card.card,
            card.card_uuid,
            0 if problem else max(0, free),
            most,
            problem,
            len(there),
            any(lease.exclusive for lease in there.values()),
            card.pinned_bytes,
        )

    def _on(self, card: Candidate, now: float) -> tuple[tuple[Resident, ...], float]:
        """Who is on the card, and the seconds of loading that are queued there."""
        view = self._hosts[card.host]
        there = view.tenants.get(card.uuid, {}).values()
        said = (residents.resident(lease, now - view.said_at.get(lease.lease_id, now)) for lease in there)
        return tuple(said), residents.queued_load_s(there)

    def _closed(self, view: _Host, now: float) -> str:
        if view.absent or view.problem:
            return view.absent or view.problem
        if now < view.paused_until:
            return "could not take a request just now"
        if view.heard_at is None:
            return "has not published its cards yet"
        age = now - view.heard_at
        return f"cards last heard of {age:.1f} s ago" if age > self._policy.stale_s else ""

    def _said(self, view: _Host, lease: Lease, now: float) -> None:
        """The lease as its host has it now; it stays on the cards that it was granted on."""
        view.leases[lease.lease_id], view.said_at[lease.lease_id] = lease, now
        for uuid in residents.cards_of(lease):
            view.tenants.setdefault(uuid, {})[lease.lease_id] = lease

    def _ended(self, host: str, lease: Lease) -> None:
        view = self._hosts[host]
        view.leases.pop(lease.lease_id, None)
        for uuid in residents.cards_of(lease):
            view.tenants.get(uuid, {}).pop(lease.lease_id, None)
        view.said_at.pop(lease.lease_id, None)
        view.caps.pop(lease.card_uuid, None)
        flight = self._flights.get(lease.lease_id)
        if flight is not None and flight.host == host:
            del self._flights[lease.lease_id]
        if lease.lease_id in view.shown:
            view.shown.remove(lease.lease_id)
            view.freed[lease.card_uuid] = view.freed.get(lease.card_uuid, 0) + lease.bytes

    def _show(self, lease_id: str, host: str) -> None:
        flight = self._flights.get(lease_id)
        if flight is not None and flight.host == host:
            flight.shown = True

    def _seen(self, flight: _Flight, now: float) -> bool:
        answered = flight.admitted_at is not None and now - flight.admitted_at > self._policy.stale_s
        return flight.shown or answered
