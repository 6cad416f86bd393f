"""The steps of a request's saga: what each does to the book, the queue and the view, and what it has the shell do.

Every step appends facts and instructions to a draft, which `decided` hands over. Which step comes when is the planner's
business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from common.api.decisions import PlanLease
from common.api.leases import AcquireLease, ReleaseLease
from common.api.words import Timestamp
from common.errors import Conflict, TandemError, Unavailable
from common.vram.ledger import LedgerPolicy
from common.vram.placement import EXPLAINED, Candidate, Choice, Wish, after_others, choose, refusal
from common.vram.ranking import Ranked
from common.vram.waiting import LeaseQueue, QueuePolicy
from pc2.resource_manager import believing, making_room
from pc2.resource_manager.fleet import Fleet
from pc2.resource_manager.instructions import (
    AskSupervisor,
    Decision,
    Instruction,
    Progress,
    ReplyError,
    ReturnLease,
    WithdrawAsk,
)
from pc2.resource_manager.intents import Intent, IntentFact, IntentForgotten, IntentRecorded
from pc2.resource_manager.making_room import NONE_BARRED
from pc2.resource_manager.model_choice import Room
from pc2.resource_manager.needs import Needs
from pc2.resource_manager.request_book import RequestBook
from pc2.resource_manager.saga import Request, State, Step


class PlannerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs: times in seconds unless they say otherwise.

    A caller waits `answer_s` for a supervisor that was asked, even past its own wait; a host that could not take a
    request rests for `pause_s`; what was left open is tried again after `retry_s`. Delivered keys are kept for
    `remembered_s` and for `remembered` leases; a caller refused for now is told to come back after `retry_after_ms`.
    """

    answer_s: float = 5.0
    pause_s: float = 1.0
    retry_s: float = 1.0
    remembered_s: float = 86_400.0
    remembered: int = 100_000
    retry_after_ms: int = 1_000
    ledger: LedgerPolicy = LedgerPolicy()
    queue: QueuePolicy = QueuePolicy()


TRIED: Final = 8
"""So many of those first in line have room made for them in one turn; the others' turn comes when these have gone on."""


class Steps:
    """The planner's state, and the steps by which it changes; `now` and `at` are those of the event in hand."""

    def __init__(self, fleet: Fleet, policy: PlannerPolicy) -> None:
        self.fleet, self.policy = fleet, policy
        self.queue = LeaseQueue(policy.queue)
        self.book = RequestBook()
        self.needs = Needs()
        self.now, self.at = 0.0, ""
        self._facts: list[IntentFact] = []
        self._does: list[Instruction] = []

    def begin(self, now: float, at: Timestamp) -> None:
        """An event is in hand, at this time."""
        self.now, self.at = now, at

    def decided(self) -> Decision:
        """The draft, handed over."""
        facts, does = tuple(self._facts), tuple(self._does)
        self._facts.clear()
        self._does.clear()
        return Decision(facts, does)

    def do(self, *instructions: Instruction) -> None:
        """Adds instructions to the draft."""
        self._does.extend(instructions)

    def choose(
        self,
        wish: Wish,
        priority: int,
        asked_at: float,
        barred: Mapping[str, str] = NONE_BARRED,
        oversized: Collection[str] = (),
    ) -> Choice:
        """What would happen now to a request of this priority that came at `asked_at`, with nobody going for it."""
        kept, cards = self.queue.kept_from(priority, asked_at), self.fleet.candidates(self.now)
        return choose(wish, cards, kept, missing=self.fleet.missing(self.now), barred=barred, oversized=oversized)

    def plan(self, asked: PlanLease, wish: Wish, barred: Mapping[str, str]) -> Choice:
        """What would happen now to the request, evictions included; `barred` says of hosts why they do not take it."""
        joined = self._joined(asked, barred)
        if joined is not None:
            return joined
        choice = self.choose(wish, asked.priority, self.now, barred)
        if choice.outcome == "never" or (choice.outcome == "grant" and len(choice.seen) > EXPLAINED):
            return choice
        room = self._room(wish, asked.priority, self.now, barred)
        if choice.outcome == "wait":
            return making_room.weighed(choice, room)
        return after_others(choice, [each.verdict for each in room])

    def outlook(self, asked: PlanLease, wish: Wish) -> Room:
        """The same in short, for a request for one card: the outcome, and the price of the dearest that goes."""
        kept = self.queue.kept_from(asked.priority, self.now)
        if making_room.fitting(self.fleet, wish, self.now, kept, NONE_BARRED) is not None:
            return Room("grant")
        found = self.fleet.room(wish, asked.priority, self.now, kept, NONE_BARRED)
        if found is not None:
            return Room("evict", found.dearest)
        never = self.choose(wish, asked.priority, self.now).outcome == "never"
        return Room("never" if never else "wait")

    def place(self, request: Request) -> None:
        """Asks a supervisor at once, has room made, queues the request, or refuses it."""
        if not self._start(request):
            asked, wish = request.asked, request.wish
            choice = self.choose(wish, asked.priority, request.asked_at, request.barred, request.oversized)
            if choice.outcome == "never" or request.patience_until <= self.now:
                self.refuse(request, self._explained(request, choice), len(self.queue) + 1)
                return
            self.do(request.note("queued", choice.reason, self.at, choice))
            self.queue.add(request.waiter)

    def _start(self, request: Request) -> bool:
        """Asks a supervisor where the request fits, or may share a lease, or others may go for it; whether it did."""
        asked = request.asked
        joined = self._joined(asked, request.barred, request.declined)
        if joined is not None and joined.card is not None:
            self.ask_for(request, joined.card, joins=joined.share)
            return True
        kept = self.queue.kept_from(asked.priority, request.asked_at)
        wish = request.wish
        card = making_room.fitting(self.fleet, wish, self.now, kept, request.barred)
        if card is not None:
            self.ask_for(request, card)
            return True
        return self._make_room(request, wish, kept)

    def _joined(
        self, asked: AcquireLease | PlanLease, barred: Mapping[str, str], declined: Collection[str] = ()
    ) -> Choice | None:
        """The choice to share a lease that lives; None where none does, or its host is barred."""
        joined = making_room.shared(self.fleet, asked, self.now, declined) if asked.share else None
        return None if joined is None or joined.card is None or joined.card.host in barred else joined

    def _make_room(self, request: Request, wish: Wish, kept: Collection[str]) -> bool:
        """Asks the supervisor to have others go, where that is enough and the request waits for it; whether it did."""
        left_s = request.patience_until - self.now
        if left_s <= 0:
            return False
        priority, barred = request.asked.priority, request.barred
        card = making_room.cheapest(self.fleet, wish, priority, self.now, kept, barred)
        if card is None:
            return False
        (first, *_) = making_room.ranked(self.fleet, wish, priority, self.now, kept, barred, only=card)
        self.ask_for(request, card, room_s=left_s)
        told = making_room.progress(wish, first, max(0.0, self.now - request.asked_at))
        self.do(*(Progress(call, told) for call in request.callers))
        return True

    def _room(self, wish: Wish, priority: int, asked_at: float, barred: Mapping[str, str]) -> list[Ranked]:
        """Every card where others may go for the request, best first, with who that is."""
        kept = self.queue.kept_from(priority, asked_at)
        return making_room.ranked(self.fleet, wish, priority, self.now, kept, barred)

    def _explained(self, request: Request, choice: Choice) -> Choice:
        """A refusal for now, with what was weighed; it says so where others would have gone for one that waits."""
        if choice.outcome != "wait":
            return choice
        room = self._room(request.wish, request.asked.priority, request.asked_at, request.barred)
        return making_room.refused(choice, room)

    def ask_for(self, request: Request, card: Candidate, *, joins: str = "", room_s: float = 0.0) -> None:
        """Records the intent and asks the card's supervisor; which several cards of its host are to be had, that one says."""
        request.move(Step.PLACED)
        request.host, request.room_s, request.joins = card.host, room_s, joins
        request.card_uuid = card.uuid if request.asked.cards == 1 else request.asked.card_uuid
        self.fleet.claim(request.lease_id, card, 0 if joins else request.wish.need_bytes, makes_room=room_s > 0)
        intent = Intent(
            lease_id=request.lease_id,
            host=card.host,
            card_uuid=card.uuid,
            identity=request.identity,
            request=request.asked,
            at=self.at,
        )
        self.book.record(intent, self.now)
        self._facts.append(IntentRecorded(intent))
        self._send(request)

    def ask_again(self, request: Request) -> None:
        """Asks the same supervisor about the same lease id, if it can be asked."""
        if self.fleet.reachable(request.host):
            request.move(Step.ASKED_AGAIN)
            self._send(request)

    def lose(self, request: Request) -> None:
        """What became of the ask is not known."""
        request.move(Step.LOST)
        request.in_doubt = True
        request.retry_at = self.now + self.policy.retry_s

    def call_off(self, request: Request) -> None:
        """Leaves the supervisor's line, for nobody waits any more; what became of the ask is then found out."""
        self.do(request.note("withdrawn", "its caller withdrew", self.at), WithdrawAsk(request.lease_id))
        self.lose(request)
        request.room_s = 0.0

    def give_back(self, request: Request) -> None:
        """Has the lease released that nobody wants, if its supervisor can be asked."""
        request.retry_at = self.now + self.policy.answer_s
        if request.granted is not None and self.fleet.reachable(request.host):
            token = request.granted.fencing_token
            self.do(ReturnLease(request.host, ReleaseLease(lease_id=request.lease_id, fencing_token=token)))

    def give_up(self, request: Request) -> None:
        """Answers the callers of a request whose supervisor is silent; what it may have granted to them is given back."""
        if request.callers:
            error = self.silent(request)
            self.do(request.note("refused", error.message, self.at))
            self.answer(request, error)

    def silent(self, request: Request) -> TandemError:
        """What is told of a request whose supervisor has not answered; it is that one which is away, and not this service."""
        fate = "stays with whoever holds it" if request.delivered else "is given back"
        text = f"{request.host} did not answer in time; a lease that it may have granted {fate}"
        retry_after_ms, behind = self.policy.retry_after_ms, request.host
        return Unavailable(text, retry_after_ms=retry_after_ms, lease_id=request.lease_id, behind=behind)

    def last_word(self, request: Request) -> TandemError:
        """What a caller is told whose time ends while its request goes on; one for whom room is being made is next in line."""
        waits = request.state is State.WAITING
        if not waits and not request.room_s:
            return self.silent(request)
        choice = self.choose(request.wish, request.asked.priority, request.asked_at, request.barred, request.oversized)
        return self._refusal(request, choice, self.queue.position(request.lease_id) if waits else 1)

    def start_over(self, request: Request, lease_id: str) -> None:
        """Ends a request whose lease was given back; whoever asked again meanwhile has a new one, under a new lease id."""
        again = Request(lease_id, request.identity, request.asked, self.now, request.patience_until)
        callers = self.book.dismiss(request)
        self.end(request)
        if callers:
            again.need_bytes = self.needs.of(again.asked)
            self.book.open(again)
            for call in callers:
                self.book.enlist(again, call)
            self.place(again)
            self.tell()

    def turn_down(self, request: Request, error: TandemError) -> None:
        """Goes on after a supervisor's refusal: elsewhere, or in the queue, or with the error to the callers."""
        request.move(Step.REFUSED)
        request.in_doubt = request.delivered = False
        if not request.callers:
            self.end(request)
        elif believing.corrected(self.fleet, self.needs, request, error, self.now + self.policy.pause_s):
            self.forget(request.lease_id)
            self.place(request)
        elif isinstance(error, Conflict):
            self.do(request.note("refused", error.message, self.at))
            self.answer(request, error)
            self.book.close(request)
        else:
            self.fail(request, error)

    def refuse(self, request: Request, choice: Choice, position: int) -> None:
        """Ends the request for want of a card; `position` is its place in the queue, or would be."""
        error = self._refusal(request, choice, position)
        self.do(request.note("refused", choice.reason, self.at, choice))
        self.answer(request, error)
        self.end(request)

    def _refusal(self, request: Request, choice: Choice, position: int) -> TandemError:
        waited_s = round(self.now - request.asked_at, 3)
        return refusal(request.wish, choice, self.policy.retry_after_ms, position=position, waited_s=waited_s)

    def fail(self, request: Request, error: TandemError) -> None:
        """Ends the request with an error for its callers."""
        self.do(request.note("refused", error.message, self.at))
        self.answer(request, error)
        self.end(request)

    def answer(self, request: Request, error: TandemError) -> None:
        """Tells every caller the error; none waits any more."""
        self.do(*(ReplyError(call, error) for call in self.book.dismiss(request)))

    def end(self, request: Request) -> None:
        """Ends a request of which nothing is left: not in the queue, not at a supervisor, not under its key."""
        self.queue.remove(request.lease_id)
        self.fleet.unclaim(request.lease_id)
        self.book.close(request)
        self.book.free_key(request.identity, request.asked.idempotency_key, request.lease_id)
        self.forget(request.lease_id)

    def forget(self, lease_id: str) -> None:
        """Takes the intent off the record, if it is on it."""
        if self.book.forget(lease_id):
            self._facts.append(IntentForgotten(lease_id))

    def start_waiters(self) -> None:
        """Starts what now fits, and tells those that still wait what changed."""
        if not len(self.queue):
            return
        for waiter, card in self.queue.startable(self.fleet.candidates(self.now), self.now):
            self.queue.remove(waiter.ticket)
            self.ask_for(self._open(waiter.ticket), card)
        self._start_by_eviction()
        self.tell()

    def _start_by_eviction(self) -> None:
        """Has room made for those first in line, who share a lease that lives by now or for whom others may go."""
        for ticket in self.queue.first(TRIED):
            if self._start(self._open(ticket)):
                self.queue.remove(ticket)

    def tell(self) -> None:
        """Streams to those that wait what changed for them; what can never fit any more is refused."""
        if not len(self.queue):
            return
        for news in self.queue.news(self.fleet.candidates(self.now), self.fleet.missing(self.now), self.now):
            request = self._open(news.waiter.ticket)
            if news.choice.outcome == "never":
                self.refuse(request, news.choice, news.progress.position)
            else:
                self.do(*(Progress(call, news.progress) for call in request.callers))

    def end_overdue(self) -> None:
        """Refuses those that have waited as long as they would."""
        for waiter in self.queue.overdue(self.now):
            choice = self.choose(waiter.wish, waiter.priority, waiter.asked_at, waiter.barred)
            self.refuse(self._open(waiter.ticket), choice, self.queue.position(waiter.ticket))

    def _send(self, request: Request) -> None:
        request.attempt += 1
        request.answer_by = max(request.patience_until, self.now + self.policy.answer_s)
        self.do(AskSupervisor(request.host, request.attempt, request.admission))

    def _open(self, ticket: str) -> Request:
        request = self.book.get(ticket)
        assert request is not None, f"{ticket} waits, but its request is over"
        return request
