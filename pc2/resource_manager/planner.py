"""The planner: which supervisor is asked for which lease, who waits, and what becomes of what was left open.

It plans by copies and never decides about a card: a grant is a grant when the card's supervisor has admitted it. Each
request is a small saga (saga.NEXT):

    waiting --(a card has room)--> asking --(admitted)--> its callers have their lease
       ^                            |  |
       +---------(refused)----------+  +--(link died midway)--> unsure --(the same supervisor again)--> asking

    admitted, but no caller is left --> returning --(released)--> over

A lease under a key that was delivered before is never given back for a later caller's leaving: somebody may hold it. Who
asks under the key of a lease that is being given back waits for that, and has a new one.

Before a supervisor is asked, an intent is committed that ties the request to one lease id at one host. While it is not
known what became of an ask, that same supervisor is asked again about the same lease id, and no other; so a request is
never granted twice. Every wait ends: `wait_s` in the queue, `answer_s` for a supervisor that does not answer, and a caller's
own time where that is shorter; its request goes on. Callers with the same identity, idempotency key and body share one
request and its fate.

How a shell drives it, from one loop:

    planner = Planner(hosts, rng);  planner.restore(intents.load(store), now)
    for every event                 decision = planner.handle(event, now, at)
                                    commit decision.facts (intents.rows), then carry the instructions out in order
    when that commit failed         carry nothing out; decision = planner.undo(decision, now, at), and go on with that
    planner.fleet                   answers list_leases, get_gpus and at which host a lease is renewed or released

Supervisors publish their cards after every change of a lease as well as at every look, so that nobody waits for a look.
An `owner` with a pid but no host has been given its host by the shell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from common.api.decisions import LeasePlan, PlanLease
from common.api.words import Timestamp
from common.clock import Rng
from common.errors import (
    DeadlineExceeded,
    IdempotencyMismatch,
    Interrupted,
    NoCapacity,
    StorageUnavailable,
    TandemError,
)
from common.ids import new_id
from common.vram.lease_decision import Note
from common.vram.placement import Wish, lease_plan
from pc2.resource_manager import events, intents
from pc2.resource_manager.fleet import Fleet
from pc2.resource_manager.instructions import AskSupervisor, Decision, Reply, ReplyError
from pc2.resource_manager.intents import Intent, IntentRecorded
from pc2.resource_manager.making_room import NONE_BARRED
from pc2.resource_manager.model_choice import Room
from pc2.resource_manager.saga import Request, State, Step
from pc2.resource_manager.steps import PlannerPolicy, Steps

MIDWAY: Final = (Interrupted, DeadlineExceeded)
"""Errors after which an ask, or a release, may or may not have been done."""


class Planner:
    """Events in, facts and instructions out; `now` is a monotonic clock in seconds, `at` the time of day for people."""

    def __init__(self, hosts: Iterable[str], rng: Rng, policy: PlannerPolicy | None = None) -> None:
        self.policy = policy or PlannerPolicy()
        self.fleet = Fleet(hosts, self.policy.ledger)
        self._steps = Steps(self.fleet, self.policy)
        self._book = self._steps.book
        self._rng = rng

    def restore(self, stored: Iterable[Intent], now: float) -> None:
        """Takes in the intents of a former life, oldest first, before the first event (RequestBook.restore)."""
        self._book.restore(stored, now)

    def handle(self, event: events.Event, now: float, at: Timestamp) -> Decision:
        """Takes in one event and returns what follows from it."""
        self._steps.begin(now, at)
        _HANDLERS[type(event)](self, event)
        self.fleet.settle(now)
        return self._steps.decided()

    def undo(self, decision: Decision, now: float, at: Timestamp) -> Decision:
        """What follows when a decision's facts could not be committed: none of it happened, and its callers are told so.

        Decisions that failed together are undone in the order in which they were made.
        """
        self._steps.begin(now, at)
        fresh = {fact.intent.lease_id for fact in decision.facts if isinstance(fact, IntentRecorded)}
        for instruction in decision.instructions:
            if isinstance(instruction, AskSupervisor):
                self._undo_ask(instruction.request.lease_id, fresh)
            elif isinstance(instruction, Reply):
                self._undo_reply(instruction)
            elif not isinstance(instruction, Note):
                self._steps.do(instruction)
        return self._steps.decided()

    def plan(self, asked: PlanLease, now: float, barred: Mapping[str, str] = NONE_BARRED) -> LeasePlan:
        """What would happen to the request now; nothing is changed. `barred` says of hosts why they would not take it."""
        self._steps.begin(now, "")
        wish = msgspec.structs.replace(Wish.of(asked), need_bytes=self._steps.needs.of(asked))
        return lease_plan(wish, self._steps.plan(asked, wish, barred))

    def outlook(self, asked: PlanLease, now: float) -> Room:
        """What a load of one model would come to, told in microseconds; the card is not to be had for itself."""
        self._steps.begin(now, "")
        wish = msgspec.structs.replace(Wish.of(asked), need_bytes=self._steps.needs.of(asked))
        return self._steps.outlook(asked, wish)

    def _asked(self, event: events.Asked) -> None:
        asked, now = event.request, self._steps.now
        known = self._book.known(event.identity, asked.idempotency_key)
        if known is not None:
            self._join(event, known)
            return
        request = Request(new_id("lease", self._rng), event.identity, asked, now, now + asked.wait_s)
        request.need_bytes = self._steps.needs.of(asked)
        self._book.open(request)
        self._book.enlist(request, event.call)
        self._steps.place(request)
        self._steps.tell()

    def _join(self, event: events.Asked, lease_id: str) -> None:
        problem = self._cannot_join(event, lease_id)
        if problem is not None:
            self._steps.do(ReplyError(event.call, problem))
            return
        now = self._steps.now
        request = self._book.get(lease_id) or self._reopen(lease_id)
        request.patience_until = max(request.patience_until, now + event.request.wait_s)
        request.answer_by = max(request.answer_by, request.patience_until, now + self.policy.answer_s)
        self._book.enlist(request, event.call)
        if request.state is State.WAITING:
            self._steps.queue.add(request.waiter)
            self._steps.tell()
        elif request.state is State.UNSURE:
            self._steps.ask_again(request)

    def _reopen(self, lease_id: str) -> Request:
        """The request of a key whose lease was delivered, in this life or perhaps in a former one."""
        request = self._book.reopen(self._book.intents[lease_id], self._steps.now)
        request.delivered = True
        return request

    def _cannot_join(self, event: events.Asked, lease_id: str) -> TandemError | None:
        if intents.body(self._book.asked(lease_id)) != intents.body(event.request):
            text = f"the key {event.request.idempotency_key} was used for another request"
            return IdempotencyMismatch(text, lease_id=lease_id)
        return None

    def _out_of_time(self, event: events.OutOfTime) -> None:
        request = self._book.waited_for(event.call)
        if request is not None:
            error = self._steps.last_word(request)
            self._steps.do(request.note("refused", error.message, self._steps.at), ReplyError(event.call, error))
            self._leave(event.call)

    def _withdrawn(self, event: events.Withdrawn) -> None:
        self._leave(event.call)

    def _leave(self, call: str) -> None:
        request = self._book.leave(call)
        if request is None or request.callers:
            return
        if request.state is State.WAITING:
            self._steps.do(request.note("withdrawn", "its caller withdrew", self._steps.at))
            self._steps.end(request)
            self._steps.start_waiters()
        elif request.state is State.ASKING and request.room_s:
            self._steps.call_off(request)

    def _admitted(self, event: events.Admitted) -> None:
        request = self._book.get(event.lease_id)
        if request is None or request.state not in (State.ASKING, State.UNSURE):
            return
        self.fleet.admitted(event.lease_id, self._steps.now)
        if request.callers:
            self._deliver(request, event)
        elif request.delivered:
            self._book.close(request)
        elif event.granted.lease_id == request.lease_id:
            request.move(Step.UNWANTED)
            request.granted = event.granted
            self._steps.give_back(request)
        else:
            self._steps.end(request)

    def _deliver(self, request: Request, event: events.Admitted) -> None:
        request.card_uuid = event.granted.card_uuid
        if event.granted.bytes and not event.granted.shares:
            self._steps.needs.learned(request.asked, event.granted.bytes)
        self._steps.do(request.note("granted", f"admitted by {request.host}", self._steps.at))
        self._steps.do(*(Reply(call, event.granted) for call in self._book.dismiss(request)))
        self._book.close(request)
        if not request.asked.idempotency_key:
            self._steps.forget(request.lease_id)

    def _refused(self, event: events.Refused) -> None:
        request = self._book.get(event.lease_id)
        if request is None or request.state is not State.ASKING or request.attempt != event.attempt:
            return
        if isinstance(event.error, MIDWAY) or (request.in_doubt and not _is_verdict(event.error)):
            self._steps.lose(request)
            return
        self.fleet.unclaim(request.lease_id)
        self._steps.turn_down(request, event.error)
        self._steps.start_waiters()

    def _returned(self, event: events.Returned) -> None:
        request = self._book.get(event.lease_id)
        if request is None or request.state is not State.RETURNING:
            return
        if event.error is not None and (event.error.retryable or isinstance(event.error, MIDWAY)):
            request.retry_at = self._steps.now + self.policy.retry_s
            return
        self._steps.do(request.note("released", "granted after its caller had gone", self._steps.at))
        self._steps.start_over(request, new_id("lease", self._rng))

    def _host_lost(self, event: events.HostLost) -> None:
        self.fleet.lost(event.host, event.reason)
        for request in self._book.at_host(event.host, State.ASKING):
            self._steps.lose(request)
        self._steps.tell()

    def _host_back(self, event: events.HostBack) -> None:
        self.fleet.back(event.host)
        self.fleet.listed(event.host, event.leases, self._steps.now)
        for request in self._book.at_host(event.host, State.UNSURE):
            self._steps.ask_again(request)
        for request in self._book.at_host(event.host, State.RETURNING):
            self._steps.give_back(request)
        self._steps.start_waiters()

    def _cards_seen(self, event: events.CardsSeen) -> None:
        self.fleet.sampled(event.host, event.event, self._steps.now)
        self._steps.start_waiters()

    def _lease_seen(self, event: events.LeaseSeen) -> None:
        self.fleet.changed(event.host, event.event, self._steps.now)
        if event.event.change == "expiring":
            self.fleet.horizon.evicted(event.event.lease.idle_s)
        if event.event.change != "granted":
            self._steps.start_waiters()

    def _tick(self, _: events.Tick) -> None:
        self.fleet.reprice(self._steps.now)
        self._steps.start_waiters()
        self._steps.end_overdue()
        for request in self._book:
            self._try_again(request, self._steps.now)
        for lease_id in self._book.sweep(self._steps.now, self.policy.remembered_s, self.policy.remembered):
            self._steps.forget(lease_id)
        self._steps.tell()

    def _try_again(self, request: Request, now: float) -> None:
        if request.state is not State.WAITING and request.answer_by <= now:
            self._steps.give_up(request)
        if request.state is State.UNSURE and request.retry_at <= now:
            self._steps.ask_again(request)
        elif request.state is State.RETURNING and request.retry_at <= now:
            self._steps.give_back(request)

    def _undo_ask(self, lease_id: str, fresh: set[str]) -> None:
        request = self._book.get(lease_id)
        if request is None:
            return
        if lease_id in fresh:
            self._book.forget(lease_id)
            self._steps.fail(request, _not_durable())
        elif request.state is State.ASKING:
            self._steps.lose(request)

    def _undo_reply(self, reply: Reply) -> None:
        self._steps.do(ReplyError(reply.call, _not_durable()))
        intent = self._book.recall(reply.granted.lease_id, self._steps.now)
        if intent is not None:
            request = self._book.reopen(intent, self._steps.now)
            request.move(Step.UNWANTED)
            request.granted = reply.granted
            self._steps.give_back(request)


def _is_verdict(error: TandemError) -> bool:
    """Whether a refusal tells of the lease id itself, and not merely that its supervisor could not look."""
    return isinstance(error, NoCapacity) or not error.retryable


def _not_durable() -> TandemError:
    return StorageUnavailable("the request could not be made durable, so nothing was granted", retry_after_ms=1_000)


_HANDLERS: Final[dict[type, Callable[[Planner, Any], None]]] = {
    events.Asked: Planner._asked,
    events.Withdrawn: Planner._withdrawn,
    events.OutOfTime: Planner._out_of_time,
    events.Admitted: Planner._admitted,
    events.Refused: Planner._refused,
    events.Returned: Planner._returned,
    events.HostLost: Planner._host_lost,
    events.HostBack: Planner._host_back,
    events.CardsSeen: Planner._cards_seen,
    events.LeaseSeen: Planner._lease_seen,
    events.Tick: Planner._tick,
}
