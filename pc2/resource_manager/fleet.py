"""The planner's view of all hosts' cards and leases: a copy to plan by, never to decide by.

Each supervisor's cards are as it last published them (host_view). From a card's grantable bytes the view takes the grants in
flight: leases asked for that the published figures cannot show yet. Such a grant counts until the supervisor told of the lease
and then published its cards, or published them long enough after it answered, or until the lease ended.

What it is asked at each request is kept ready: a card is drawn up anew when something was said of it, of its host or of its
leases, and not because somebody asks. So where a request goes is told in microseconds however many the cards are
(common/vram/residency). The view asks nobody and grants nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import inf

from common.api.gpus import Card, CardsSampled
from common.api.leases import Lease, LeaseChanged, Leases
from common.vram.demand import Demand, Horizon, ModelKey
from common.vram.lease_facts import ENDS
from common.vram.ledger import DEFAULT, LedgerPolicy
from common.vram.placement import Candidate, Wish
from common.vram.ranking import Site
from common.vram.residency import Residency, Room
from pc2.resource_manager import residents
from pc2.resource_manager.host_view import HostView

Place = tuple[str, str]
"""A host and one of its cards."""


@dataclass(slots=True)
class _Flight:
    """One grant in flight: bytes asked for on a card."""

    place: Place
    bytes: int
    shown: bool = False
    admitted_at: float | None = None


class Fleet:
    """All hosts as last heard; `now` is the planner's monotonic clock in seconds."""

    def __init__(self, hosts: Iterable[str], policy: LedgerPolicy = DEFAULT) -> None:
        self.horizon = Horizon()
        self._policy = policy
        self._hosts = {host: HostView(policy) for host in hosts}
        self._flights: dict[str, _Flight] = {}
        self._in_flight: dict[Place, int] = {}
        self._making: dict[str, str] = {}
        self._capped: dict[str, None] = {}
        self._ready = Residency(Demand(), self.horizon)
        self._drawn: dict[Place, Candidate] = {}
        self._stale: dict[Place, None] = {}
        self._shut = dict.fromkeys(self._hosts, True)
        self._unsure: dict[str, None] = {}
        self._turns_at = inf

    def sampled(self, host: str, event: CardsSampled, now: float) -> None:
        """Takes in a host's cards as it published them; figures it was refused by are believed again."""
        view = self._hosts[host]
        self._redraw(host)
        view.published(event.cards, event.problem, now)
        self._capped.pop(host, None)
        self._redraw(host)
        settled = [
            lease_id
            for lease_id, flight in self._flights.items()
            if flight.place[0] == host and self._seen(flight, now)
        ]
        for lease_id in settled:
            self.unclaim(lease_id)

    def listed(self, host: str, listing: Leases, now: float) -> None:
        """Takes in the whole table of a host's leases."""
        view = self._hosts[host]
        for uuid, there in view.tenants.items():
            for lease_id in there:
                self._leaves(host, uuid, lease_id)
        view.forget_leases()
        for lease in listing.leases:
            self._said(host, lease, now)

    def changed(self, host: str, event: LeaseChanged, now: float) -> None:
        """Takes in one change of a lease; `may-return` is none, for it shows the lease as it was before it made way."""
        if event.change == "may-return":
            return
        if event.change in ENDS:
            self._ended(host, event.lease)
        else:
            self._said(host, event.lease, now)

    def lost(self, host: str, reason: str) -> None:
        """Closes the host's cards until it is back."""
        self._hosts[host].absent = reason
        self._unsure[host] = None

    def back(self, host: str) -> None:
        """The host can be asked again; its cards are as it published them last, if it did."""
        self._hosts[host].absent = ""
        self._unsure[host] = None

    def claim(self, lease_id: str, card: Candidate, bytes: int, *, makes_room: bool = False) -> None:
        """Counts a grant in flight on the card; on one where room is being made, no more is made meanwhile."""
        self.unclaim(lease_id)
        flight = self._flights[lease_id] = _Flight((card.host, card.uuid), bytes)
        if makes_room:
            self._making[lease_id] = card.uuid
        self._flies(flight, bytes)

    def admitted(self, lease_id: str, now: float) -> None:
        """The supervisor answered yes; its figures will show it."""
        if lease_id in self._flights:
            self._flights[lease_id].admitted_at = now

    def unclaim(self, lease_id: str) -> None:
        """Nothing is in flight under this id."""
        flight = self._flights.pop(lease_id, None)
        if flight is not None:
            self._making.pop(lease_id, None)
            self._flies(flight, -flight.bytes)

    def cap(self, host: str, card_uuid: str, bytes: int) -> None:
        """Believes less than `bytes` of the card until the host publishes its figures again: it refused that many.

        Where no card is named, of each that it has.
        """
        view = self._hosts[host]
        for uuid in [card_uuid] if card_uuid else view.cards:
            view.caps[uuid] = min(view.caps.get(uuid, bytes), bytes)
            self._stale[host, uuid] = None
        self._capped[host] = None

    def limit(self, host: str, card_uuid: str, bytes: int) -> None:
        """Believes for good that the card can never hold `bytes`: its host said so."""
        limits = self._hosts[host].limits
        limits[card_uuid] = min(limits.get(card_uuid, bytes), bytes)
        self._stale[host, card_uuid] = None

    def pause(self, host: str, until: float) -> None:
        """Closes the host's cards for a moment: it could not take a request."""
        self._hosts[host].paused_until = until
        self._unsure[host] = None

    def fit(self, wish: Wish, now: float, kept: Collection[str], barred: Collection[str]) -> Candidate | None:
        """The card that takes a request for one card as things are; `kept` are cards, `barred` hosts not in question."""
        self._draw(now)
        return self._ready.fit(wish, kept, barred)

    def room(
        self, wish: Wish, priority: int, now: float, kept: Collection[str], barred: Collection[str]
    ) -> Room | None:
        """Where others go for such a request, which shares its card, at the least cost; prices are a second old at most."""
        self._draw(now)
        return self._ready.room(wish, priority, now, self._refusing(wish.need_bytes).union(kept), barred)

    def settle(self, now: float) -> None:
        """Draws up what was said of since, so that no request has to."""
        self._draw(now)
        self._ready.freshen(now)

    def reprice(self, now: float) -> None:
        """Draws up the prices of all leases anew: they fall as leases lie idle."""
        self._draw(now)
        self._ready.reprice(now)

    def candidates(self, now: float) -> list[Candidate]:
        """Every card known, as placement sees it."""
        self._draw(now)
        found = []
        for host, view in self._hosts.items():
            closed = view.closed(now)
            for uuid, card in view.cards.items():
                found.append(self._candidate(host, card, closed) if closed else self._drawn[host, uuid])
        return found

    def sites(self, now: float, need_bytes: int) -> list[Site]:
        """The open cards where room may be made for so many bytes, with who is on them.

        Not where room is being made already, and not where the host refused as much since it last published.
        """
        self._draw(now)
        refusing = self._refusing(need_bytes)
        return [site for site in self._ready.sites(now) if site.card.uuid not in refusing]

    def site(self, card: Candidate, now: float) -> Site:
        """One card with who is on it."""
        return self._ready.site(_name((card.host, card.uuid)), now)

    def sharable(
        self, model: str, config: str, host: str, card_uuid: str, now: float, declined: Collection[str] = ()
    ) -> Lease | None:
        """A lease of the model that a request for this host and card may share; None where none is known to live.

        None of the `declined`, which their hosts would not have shared.
        """
        key = ModelKey(model, config)
        for name, view in self._hosts.items():
            if host in ("", name) and view.alike.get(key) and not view.closed(now):
                lease = view.sharable(key, card_uuid, declined)
                if lease is not None:
                    return lease
        return None

    def missing(self, now: float) -> dict[str, str]:
        """Per host that cannot be asked, or whose cards are not all known, the reason."""
        reasons = {host: view.closed(now) for host, view in self._hosts.items()}
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

    def _said(self, host: str, lease: Lease, now: float) -> None:
        self._hosts[host].said(lease, now)
        flight = self._flights.get(lease.lease_id)
        if flight is not None and flight.place[0] == host:
            flight.shown = True
        for uuid in residents.cards_of(lease):
            if (host, uuid) in self._drawn:
                self._ready.put(_name((host, uuid)), residents.tenant(lease, now))
            self._stale[host, uuid] = None

    def _ended(self, host: str, lease: Lease) -> None:
        view = self._hosts[host]
        for uuid in residents.cards_of(lease):
            if lease.lease_id in view.tenants.get(uuid, ()):
                self._leaves(host, uuid, lease.lease_id)
        view.ended(lease)
        self._stale[host, lease.card_uuid] = None
        flight = self._flights.get(lease.lease_id)
        if flight is not None and flight.place[0] == host:
            self.unclaim(lease.lease_id)

    def _leaves(self, host: str, uuid: str, lease_id: str) -> None:
        if (host, uuid) in self._drawn:
            self._ready.drop(_name((host, uuid)), lease_id)
        self._stale[host, uuid] = None

    def _flies(self, flight: _Flight, bytes: int) -> None:
        self._in_flight[flight.place] = self._in_flight.get(flight.place, 0) + bytes
        self._stale[flight.place] = None

    def _seen(self, flight: _Flight, now: float) -> bool:
        answered = flight.admitted_at is not None and now - flight.admitted_at > self._policy.stale_s
        return flight.shown or answered

    def _refusing(self, need_bytes: int) -> set[str]:
        """The cards where no room is made for so many bytes: it is being made already, or its host refused as much."""
        capped = (each for host in self._capped for each in self._hosts[host].caps.items())
        return {*self._making.values(), *(uuid for uuid, refused in capped if refused <= need_bytes)}

    def _redraw(self, host: str) -> None:
        """All cards of the host are to be drawn up anew."""
        self._unsure[host] = None
        for uuid in self._hosts[host].cards:
            self._stale[host, uuid] = None

    def _draw(self, now: float) -> None:
        """Draws up what was said of since, and the hosts that time alone opened or closed."""
        if now >= self._turns_at:
            self._turns_at = inf
            self._unsure = dict.fromkeys(self._hosts)
        for host in self._unsure:
            shut = bool(self._hosts[host].closed(now))
            if shut != self._shut[host]:
                self._shut[host] = shut
                self._stale |= {(host, uuid): None for uuid in self._hosts[host].cards}
            self._turns_at = min(self._turns_at, self._hosts[host].turns_at(now))
        self._unsure.clear()
        for place in self._stale:
            self._draw_card(place, now)
        self._stale.clear()

    def _draw_card(self, place: Place, now: float) -> None:
        host, uuid = place
        view, name = self._hosts[host], _name(place)
        card = view.cards.get(uuid)
        if card is None:
            if self._drawn.pop(place, None) is not None:
                self._ready.lose(name)
            return
        there = view.tenants.get(uuid, {})
        known = place in self._drawn
        self._drawn[place] = self._candidate(host, card, view.closed(now))
        self._ready.see(self._drawn[place], name)
        self._ready.queued(name, residents.queued_load_s(there.values()))
        if not known:
            for lease in there.values():
                self._ready.put(name, residents.tenant(lease, view.said_at.get(lease.lease_id, now)))

    def _candidate(self, host: str, card: Card, closed: str) -> Candidate:
        return self._hosts[host].candidate(card, closed, self._in_flight.get((host, card.card_uuid), 0))


def _name(place: Place) -> str:
    return "/".join(place)
