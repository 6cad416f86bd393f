"""Requests in flight: decides what is accepted, who gets it, what a broken run means, and how everything ends.

Every method is a decision: it reads the book, changes nothing, and returns facts and instructions. The shell, in one turn of
its loop, applies the facts to the book and writes their rows; once the group is committed it performs the instructions and
publishes the statuses that `apply` returned. The next decision may follow as soon as the facts are applied. When the commit
fails, the book is loaded anew from the store.

    on submit_request            submit, then dispatch
    on an agent's reply          answered, then dispatch
    on a failed call             failed, then dispatch
    on an agent lost             agent_lost, then dispatch
    on cancel_request            cancel
    several times a second       expire, dispatch; now and then trim
    after the book was loaded    resume, with the calls that are still open

Every `Send` is answered by exactly one of `answered`, `failed` or `agent_lost`, also when the request has ended meanwhile: only
then is the agent's place free again.

It holds no socket, reads no clock, and never makes a running request wait for a slow one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from common.api.core_orchestrator import State, SubmitRequest
from common.dispatch.answers import NOTHING_DONE
from common.dispatch.provider import Offers
from common.errors import Code, IdempotencyMismatch, Interrupted, NoProvider, Overloaded, TandemError
from common.resilience.idempotency import digest
from common.resilience.share import has_share
from main_pc.core_orchestrator import retention
from main_pc.core_orchestrator.capabilities import capability_of
from main_pc.core_orchestrator.dispatch_round import Round
from main_pc.core_orchestrator.instructions import Decision, Instruction, Withdraw
from main_pc.core_orchestrator.request_book import Request, RequestBook, end_of
from main_pc.core_orchestrator.request_facts import (
    CallSettled,
    Fact,
    RequestQueued,
    RequestReturned,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who submits: its identity, and the host it is on."""

    identity: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The request's id (an earlier one when its idempotency key came before) and what to do."""

    request_id: str
    decision: Decision


class Requests:
    """The decisions on one book. `now` is monotonic seconds, `at` the same moment in RFC 3339."""

    def __init__(self, book: RequestBook) -> None:
        self._book = book
        self._limits = book.limits

    def submit(
        self, asked: SubmitRequest, caller: Caller, *, request_id: str, offered: Callable[[str], bool], at: str
    ) -> Submitted:
        """Accepts a request under `request_id`, or finds the one that came with the same key before.

        Raises BadRequest, IdempotencyMismatch, NoProvider when the capability is not `offered` by any agent nor expected to
        be, and Overloaded when its queue is full or its caller has a caller's share of the room.
        """
        capability = capability_of(asked)
        body = _digest(capability, asked) if asked.idempotency_key else b""
        known = self._book.known(caller.identity, asked.idempotency_key) if asked.idempotency_key else None
        if known is not None:
            if known[1] != body:
                raise IdempotencyMismatch(
                    f"the idempotency key {asked.idempotency_key!r} came before with another request"
                )
            return Submitted(known[0], Decision())
        if not offered(capability):
            raise NoProvider(
                f"no registered, restarting or configured agent offers {capability!r}", capability=capability
            )
        fact = self._queued(asked, caller, capability, body, request_id, at)
        self._admit(fact)
        return Submitted(request_id, Decision((fact,)))

    def dispatch(self, now: float, at: str, offers: Offers) -> Decision:
        """Gives waiting requests to agents, the most urgent of all capabilities first, as far as agents are free."""
        return Round(self._book, now, at, offers).play()

    def answered(self, request_id: str, attempt: int, result: Any, at: str) -> Decision:
        """The agent performed this attempt; done, unless the request no longer waits for it."""
        settled = self._settled(request_id, attempt)
        if not settled or not self._book.runs(request_id, attempt):
            return Decision(settled)
        request = self._book.active[request_id]
        return Decision((*settled, end_of(request, "done", at, result=msgspec.msgpack.encode(result))))

    def failed(self, request_id: str, attempt: int, error: TandemError, at: str) -> Decision:
        """The call ended with `error`: tried again where that is safe and attempts are left, failed otherwise."""
        settled = self._settled(request_id, attempt)
        if not settled or not self._book.runs(request_id, attempt):
            return Decision(settled)
        return Decision((*settled, self._broken(self._book.active[request_id], error, at)))

    def agent_lost(self, agent_name: str, at: str) -> Decision:
        """The agent died or was replaced: what it worked on is sent again if that is safe, else `failed: interrupted`."""
        return self._interrupt(self._book.calls_to(agent_name), f"{agent_name} went away while it worked on this", at)

    def resume(self, at: str, live: Collection[tuple[str, int]] = ()) -> Decision:
        """After the book was loaded: interrupts every run but those whose call (request id, attempt) is still `live` here.

        None is after a restart; after a failed commit the shell still hears the calls that it has open.
        """
        deaf = (call for call in self._book.calls if call not in live)
        return self._interrupt(deaf, "CoreOrchestrator restarted while this was running", at)

    def cancel(self, request_id: str, at: str) -> Decision:
        """Withdraws a request; nothing happens to one that has ended. NotFound when it is not known."""
        request = self._book.active.get(request_id)
        if request is None:
            self._book.status(request_id)
            return Decision()
        return self._stop(request, "cancelled", Code.CANCELLED, "withdrawn", at)

    def expire(self, now: float, at: str) -> Decision:
        """Ends the requests whose deadline has come; called several times a second."""
        facts: list[Fact] = []
        instructions: list[Instruction] = []
        for request in self._book.active.values():
            if request.deadline <= now:
                late = f"not done within {request.asked.deadline_s:g} s; it was {request.state}"
                decision = self._stop(request, "expired", Code.DEADLINE_EXCEEDED, late, at)
                facts += decision.facts
                instructions += decision.instructions
        return Decision(tuple(facts), tuple(instructions))

    def trim(self, now: float) -> Decision:
        """Lets go of the oldest ended requests beyond what is kept, and of results beyond their bytes."""
        return Decision(retention.excess(self._book, now))

    # inside

    def _queued(
        self, asked: SubmitRequest, caller: Caller, capability: str, body: bytes, request_id: str, at: str
    ) -> RequestQueued:
        return RequestQueued(
            request_id=request_id,
            seq=self._book.next_seq,
            capability=capability,
            priority=asked.priority,
            deadline_s=asked.deadline_s or self._limits.deadline_s,
            at=at,
            identity=caller.identity,
            host=caller.host,
            idempotency_key=asked.idempotency_key,
            digest=body,
            data=asked.data,
            audio_data=bytes(asked.audio_data),
            image_data=bytes(asked.image_data),
            params=asked.params,
        )

    def _admit(self, fact: RequestQueued) -> None:
        book, limits = self._book, self._limits
        waiting = len(book.queues.get(fact.capability, ()))
        if waiting >= limits.queued:
            self._refuse(f"{waiting} requests wait for {fact.capability!r}; {limits.queued} are allowed")
        if len(book.active) >= limits.active:
            self._refuse(f"{len(book.active)} requests are under way; {limits.active} are allowed")
        if book.active_bytes + fact.size() > limits.active_bytes:
            self._refuse(
                f"requests under way hold {book.active_bytes} bytes and this one has {fact.size()}; "
                f"{limits.active_bytes} are allowed"
            )
        self._share(fact, waiting)

    def _share(self, fact: RequestQueued, waiting: int) -> None:
        """One identity leaves room for others."""
        book, limits, shares, who, size = self._book, self._limits, self._book.shares, fact.identity, fact.size()
        line = f"requests that wait for {fact.capability!r}"
        rooms = (
            (line, shares.waiting.of(who, fact.capability), waiting, limits.queued, 1),
            ("requests under way", shares.active.of(who), len(book.active), limits.active, 1),
            ("bytes of requests under way", shares.bytes.of(who), book.active_bytes, limits.active_bytes, size),
        )
        for what, held, taken, total, wanted in rooms:
            if not has_share(held, taken, total, wanted):
                self._refuse(f"{who} has {held} of the {taken} {what}; what is left of {total} is for others")

    def _refuse(self, message: str) -> None:
        raise Overloaded(message, retry_after_ms=self._limits.retry_after_ms)

    def _settled(self, request_id: str, attempt: int) -> tuple[Fact, ...]:
        known = (request_id, attempt) in self._book.calls
        return (CallSettled(request_id=request_id, attempt=attempt),) if known else ()

    def _interrupt(self, calls: Iterable[tuple[str, int]], why: str, at: str) -> Decision:
        facts: list[Fact] = []
        for request_id, attempt in calls:
            facts.append(CallSettled(request_id=request_id, attempt=attempt))
            if self._book.runs(request_id, attempt):
                facts.append(self._broken(self._book.active[request_id], Interrupted(why), at))
        return Decision(tuple(facts))

    def _broken(self, request: Request, error: TandemError, at: str) -> Fact:
        if error.code is Code.DEADLINE_EXCEEDED:
            return end_of(request, "expired", at, code=error.code, error=error.message)
        again = error.code in NOTHING_DONE or (error.code is Code.INTERRUPTED and request.idempotent)
        if not again:
            return end_of(request, "failed", at, code=error.code, error=error.message)
        if request.attempts >= self._limits.attempts:
            tried = f"{request.attempts} attempts came to nothing; the last: {error.message}"
            return end_of(request, "failed", at, code=error.code, error=tried)
        return RequestReturned(
            request_id=request.asked.request_id,
            agent_name=request.agent_name,
            attempt=request.attempts,
            delay_s=self._delay_s(request, error),
            why=f"attempt {request.attempts} at {request.agent_name}: {error.message}",
        )

    def _delay_s(self, request: Request, error: TandemError) -> float:
        if error.code is Code.INTERRUPTED:
            return 0.0
        if error.retry_after_ms is not None:
            return min(self._limits.backoff_max_s, error.retry_after_ms / 1000)
        return min(self._limits.backoff_max_s, self._limits.backoff_s * 2.0 ** (request.attempts - 1))

    def _stop(self, request: Request, state: State, code: Code, error: str, at: str) -> Decision:
        end = end_of(request, state, at, code=code, error=error)
        if request.state == "queued":
            return Decision((end,))
        return Decision((end,), (Withdraw(request.asked.request_id, request.attempts, request.agent_name),))


def _digest(capability: str, asked: SubmitRequest) -> bytes:
    told = (capability, asked.data, asked.params, asked.priority, asked.deadline_s)
    return digest(msgspec.msgpack.encode(told, order="deterministic"), asked.audio_data, asked.image_data)
