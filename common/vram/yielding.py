"""How a card's leases make way for strangers: people's programs, a game or a desktop, that hold memory without a lease.

A stranger is never signalled and never refused; it is yielded to. Where one grows into what leases hold or were promised, the
cheapest idle leases go (parked where they can be), loads on the card are held, and what went comes back after.

    spare   = min(measured free, total - all that is seen to be held)       may be below zero
    margin  = spare - promised and not taken yet - guard band
    ahead   = what the growing strangers took within the last `ahead_s`, at most ahead_fraction x total
    yield   when a stranger grew within `window_s` and margin < (ahead - guard) / 2, until margin >= ahead
    return  when for `return_s` no margin was below the bytes that come back

Between the two marks of `yield` nothing happens, so that a wobble parks nothing twice. A return that was followed by another
yield doubles the wait for the next, up to `longest_return_s`, until there was peace for `steady_s`.

Growth that no process and no lease accounts for is nobody to yield to: it freezes the grants on the card for `freeze_s`. One
`Yielding` belongs to one card. It says who should go and who may come back; the ladder ends, parks and wakes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from common.api.gpus import Card, Stranger
from common.api.leases import Lease
from common.vram.amount import MIB, amount
from common.vram.eviction import Resident, price, victims, why_not

PEOPLE: Final = 100
"""The priority at which a stranger is yielded to: a lease of any priority makes way for people."""


class YieldPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs; their formulas are in the module's docstring.

    Growth up to `growth_slack_bytes` within the window is a wobble; of nameless bytes, up to `nameless_slack_bytes`. Loads are
    held for `calm_s` after the last growth. A lease that was asked to go counts as going for `leave_s`.
    """

    growth_slack_bytes: int = 64 * MIB
    nameless_slack_bytes: int = 256 * MIB
    window_s: float = 10.0
    ahead_s: float = 2.0
    ahead_fraction: float = 0.25
    calm_s: float = 10.0
    return_s: float = 5.0
    longest_return_s: float = 600.0
    steady_s: float = 3_600.0
    freeze_s: float = 5.0
    leave_s: float = 60.0


DEFAULT: Final = YieldPolicy()
NO_USES: Final[Mapping[int, int]] = MappingProxyType({})


class CardLook(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a card and the leases on it; `at` in seconds of the host's monotonic clock.

    `held_bytes` is all that is seen to be held, strangers' and nameless included, and may exceed the total. `promised_bytes` is
    what leases and reservations have yet to take. `unexplained_bytes` are those nameless bytes that no lease accounts for
    (the ledger's `base_bytes`). `residents` are the leases with bytes here, `parked` the ids of those that sleep. `uses` is what
    each process on the card holds by pid, whoever's it is: who becomes a stranger by losing a lease has taken nothing.
    """

    at: float
    total_bytes: int
    free_bytes: int
    held_bytes: int
    guard_bytes: int
    promised_bytes: int
    unexplained_bytes: int
    strangers: Sequence[Stranger]
    residents: Sequence[Resident]
    parked: Collection[str] = frozenset()
    problem: str = ""
    uses: Mapping[int, int] = NO_USES

    @property
    def margin(self) -> int:
        """What is left above all promises and the guard band; below zero where they are broken into."""
        spare = min(self.free_bytes, self.total_bytes - self.held_bytes)
        return spare - self.promised_bytes - self.guard_bytes


class Park(msgspec.Struct, frozen=True):
    """The lease should give its bytes back, for the stranger that is named."""

    resident: Resident
    stranger: Stranger
    reason: str


class BringBack(msgspec.Struct, frozen=True):
    """There is room again for what went: a parked lease may wake, an ended one may be loaded anew.

    `cause` says what became of the stranger that it went for.
    """

    resident: Resident
    parked: bool
    cause: str


Instruction = Park | BringBack


def look_of(
    card: Card,
    leases: Iterable[Lease],
    residents: Sequence[Resident],
    at: float,
    problem: str = "",
    uses: Mapping[int, int] = NO_USES,
    gone: Collection[int] = frozenset(),
) -> CardLook:
    """The look as the lease verbs show the card and the leases, with `residents` as an eviction from this card weighs them.

    `problem` says why the card could not be measured. Who is `gone` had ended by the time it was asked whose it is: its bytes
    are held, and it is nobody to yield to. Leases of which nothing is seen may have taken nameless bytes; only what
    exceeds all of these is unexplained.
    """
    own = [lease for lease in leases if card.card_uuid in (lease.card_uuids or [lease.card_uuid]) and not lease.shares]
    strange = sum(stranger.bytes for stranger in card.strangers)
    hidden = sum(lease.bytes for lease in own if not lease.verified)
    untaken = sum(max(0, lease.bytes - lease.measured_bytes) for lease in own if lease.verified)
    return CardLook(
        at=at,
        total_bytes=card.total_bytes,
        free_bytes=card.free_bytes,
        held_bytes=card.measured_bytes + card.nameless_bytes + strange,
        guard_bytes=card.guard_bytes,
        promised_bytes=untaken + max(0, hidden - card.nameless_bytes) + card.reserved_bytes,
        unexplained_bytes=max(0, card.nameless_bytes - hidden),
        strangers=[stranger for stranger in card.strangers if stranger.pid not in gone],
        residents=residents,
        parked=frozenset(lease.lease_id for lease in own if lease.state == "parked"),
        problem=problem,
        uses=uses,
    )


class _Course:
    """How one amount went over the last seconds."""

    def __init__(self, at: float, amount_before: int) -> None:
        self._seen: deque[tuple[float, int]] = deque([(at, amount_before)])

    def see(self, at: float, now_bytes: int, window_s: float) -> None:
        self._seen.append((at, now_bytes))
        while len(self._seen) > 1 and self._seen[1][0] <= at - window_s:
            self._seen.popleft()

    def grown(self, since: float) -> int:
        """How much more there is than at the least since then."""
        last = least = self._seen[-1][1]
        for at, n in reversed(self._seen):
            least = min(least, n)
            if at <= since:
                break
        return last - least


class _Away(msgspec.Struct):
    """A lease that was asked to go, for a stranger."""

    resident: Resident
    asked_at: float
    stranger: Stranger
    gone: bool = False
    parked: bool = False
    returning_at: float | None = None


class Yielding:
    """One card's peace with its strangers."""

    def __init__(self, policy: YieldPolicy = DEFAULT) -> None:
        self.holding = ""
        self.frozen = ""
        self._policy = policy
        self._courses: dict[int, _Course] = {}
        self._nameless: _Course | None = None
        self._looked_at: float | None = None
        self._uses: Mapping[int, int] = NO_USES
        self._growing: tuple[Stranger, ...] = ()
        self._blamed: frozenset[int] = frozenset()
        self._grew_at = self._froze_at = float("-inf")
        self._returned_at: float | None = None
        self._return_s = policy.return_s
        self._away: dict[str, _Away] = {}
        self._margins: deque[tuple[float, int]] = deque()

    @property
    def away(self) -> list[Resident]:
        """What made way and is not back yet."""
        return [away.resident for away in self._away.values()]

    def look(self, look: CardLook, horizon_s: float) -> list[Instruction]:
        """Takes in one look and says what follows. A look with a problem says nothing, and nothing follows from it.

        After it `holding` says why loads on the card are held, and `frozen` why nothing is granted on it; empty: neither.
        """
        if look.problem:
            return []
        self._follow_strangers(look)
        self._follow_nameless(look)
        self._follow_away(look)
        self._looked_at, self._uses = look.at, look.uses
        ahead = self._ahead(look)
        low = (ahead - look.guard_bytes) // 2
        self._open_or_close(look, low)
        if self.holding:
            self._margins.clear()
            return [*self._parks(look, low, ahead, horizon_s)]
        return [*self._returns(look, horizon_s)]

    def forget(self, lease_id: str) -> None:
        """The lease need not come back any more: its holder gave it up."""
        self._away.pop(lease_id, None)

    def _follow_strangers(self, look: CardLook) -> None:
        policy = self._policy
        for stranger in look.strangers:
            course = self._courses.get(stranger.pid)
            if course is None:
                course = self._courses[stranger.pid] = self._begun(look, stranger)
            course.see(look.at, stranger.bytes, policy.window_s)
        present = {stranger.pid for stranger in look.strangers}
        self._courses = {pid: course for pid, course in self._courses.items() if pid in present}
        since, slack = look.at - policy.window_s, policy.growth_slack_bytes
        self._growing = tuple(each for each in look.strangers if self._courses[each.pid].grown(since) > slack)
        if self._growing:
            self._grew_at = look.at

    def _begun(self, look: CardLook, stranger: Stranger) -> _Course:
        """From what it held in the look before; one that was there before the first has not grown, unless promises are broken."""
        if self._looked_at is not None:
            return _Course(self._looked_at, self._uses.get(stranger.pid, 0))
        short = look.margin < -look.guard_bytes // 2
        return _Course(look.at, 0 if short else stranger.bytes)

    def _follow_nameless(self, look: CardLook) -> None:
        policy = self._policy
        if self._nameless is None:
            self._nameless = _Course(look.at, look.unexplained_bytes)
        self._nameless.see(look.at, look.unexplained_bytes, policy.freeze_s)
        grown = self._nameless.grown(look.at - policy.freeze_s)
        if grown > policy.nameless_slack_bytes:
            self._froze_at = look.at
            self.frozen = f"{amount(grown)} appeared that no process and no lease accounts for"
        elif look.at - self._froze_at >= policy.freeze_s:
            self.frozen = ""

    def _follow_away(self, look: CardLook) -> None:
        residents = {resident.lease_id for resident in look.residents}
        for lease_id, away in list(self._away.items()):
            here = lease_id in residents and lease_id not in look.parked
            if away.gone and (here or (away.parked and lease_id not in look.parked)):
                del self._away[lease_id]  # it is back, or its sleep ended otherwise
            elif not away.gone and not here:
                away.gone, away.parked = True, lease_id in look.parked
            elif not away.gone and look.at - away.asked_at > self._policy.leave_s:
                del self._away[lease_id]  # it did not go; it may be asked again
            elif away.returning_at is not None and look.at - away.returning_at > self._policy.leave_s:
                away.returning_at = None

    def _ahead(self, look: CardLook) -> int:
        since = look.at - self._policy.ahead_s
        taken = sum(self._courses[stranger.pid].grown(since) for stranger in self._growing)
        return min(taken, int(look.total_bytes * self._policy.ahead_fraction))

    def _open_or_close(self, look: CardLook, low: int) -> None:
        if look.margin < low and self._growing:
            self._blamed |= {stranger.pid for stranger in self._growing}
            self.holding = f"{_named(self._growing)} is taking memory"
        elif self.holding:
            calm = look.margin >= low and look.at - self._grew_at > self._policy.calm_s
            if calm or self._largest(look) is None:
                self.holding, self._blamed = "", frozenset()

    def _parks(self, look: CardLook, low: int, ahead: int, horizon_s: float) -> list[Park]:
        going = {lease_id for lease_id, away in self._away.items() if not away.gone}
        coming = sum(each.bytes for each in look.residents if each.expiring or each.lease_id in going)
        stranger = self._largest(look)
        if stranger is None or look.margin + coming >= low:
            return []
        able = [each for each in look.residents if each.lease_id not in going and each.lease_id not in look.parked]
        plan = victims(ahead - look.margin - coming, able, PEOPLE, horizon_s)
        chosen = plan.chosen if plan.enough else tuple(each for each in able if not why_not(each, PEOPLE))
        if chosen:
            self._learn_patience(look.at)
        for each in chosen:
            self._away[each.lease_id] = _Away(each, look.at, stranger)
        reason = f"{_named([stranger])}, which has no lease, holds {amount(stranger.bytes)} and needs room"
        return [Park(each, stranger, reason) for each in chosen]

    def _learn_patience(self, now: float) -> None:
        """A return that did not last makes the next one wait twice as long."""
        if self._returned_at is not None:
            soon = now - self._returned_at <= self._policy.steady_s
            longer = min(2 * self._return_s, self._policy.longest_return_s)
            self._return_s = longer if soon else self._policy.return_s
            self._returned_at = None

    def _largest(self, look: CardLook) -> Stranger | None:
        """The one to yield to: of those to blame the largest."""
        blamed = (stranger for stranger in look.strangers if stranger.pid in self._blamed)
        return max(blamed, key=lambda stranger: stranger.bytes, default=None)

    def _returns(self, look: CardLook, horizon_s: float) -> list[BringBack]:
        waiting = [away for away in self._away.values() if away.gone and away.returning_at is None]
        if not waiting:
            self._margins.clear()
            return []
        self._margins.append((look.at, look.margin))
        since = look.at - self._return_s
        while len(self._margins) > 1 and self._margins[1][0] <= since:
            self._margins.popleft()
        if self._growing or self._margins[0][0] > since:
            return []
        room = min(margin for _, margin in self._margins)
        room -= sum(away.resident.bytes for away in self._away.values() if away.returning_at is not None)
        back: list[BringBack] = []
        for away in sorted(waiting, key=lambda each: -price(each.resident, horizon_s)):
            if away.resident.bytes <= room:
                room -= away.resident.bytes
                back.append(self._bring_back(away, look))
        return back

    def _bring_back(self, away: _Away, look: CardLook) -> BringBack:
        away.returning_at = self._returned_at = look.at
        self._margins.clear()
        if not away.parked:
            del self._away[away.resident.lease_id]  # its lease has ended: what is loaded anew has another
        stays = any(stranger.pid == away.stranger.pid for stranger in look.strangers)
        return BringBack(
            away.resident, away.parked, f"{_named([away.stranger])} {'gave memory back' if stays else 'left'}"
        )


def _named(strangers: Sequence[Stranger]) -> str:
    return ", ".join(f"{stranger.name or 'a process'} (pid {stranger.pid})" for stranger in strangers)
