"""The book of requests: what the facts add up to, and what can be asked of it.

Every change enters through `apply`; each state follows from the one before by the table in `request_facts`, and a fact that
does not fit raises with the request's whole story. The queue is kept sorted by `rank`, so that the place of a request is a
bisection away. Calls to agents are counted apart from requests: an agent whose request was cancelled is still busy until its
call is settled.

It decides nothing, sends nothing and reads no clock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec import msgpack, structs

from common.api.core_orchestrator import RequestStatus, State
from common.dispatch.ageing import rank
from common.dispatch.load import Call, Load
from common.errors import Internal, NotFound
from common.resilience.share import Shares
from main_pc.core_orchestrator.request_facts import (
    NEXT,
    TO_END,
    CallSettled,
    Fact,
    Move,
    RequestEnded,
    RequestForgotten,
    RequestQueued,
    RequestReturned,
    RequestStarted,
    ResultDropped,
    Run,
    Stored,
)
from main_pc.core_orchestrator.request_limits import Limits

RESULT_GONE: Final = "done, but its result is no longer kept"


@dataclass(slots=True)
class Request:
    """A request that has not ended; times are monotonic seconds. Only the book changes it."""

    asked: RequestQueued
    state: State
    rank: float
    deadline: float
    not_before: float
    attempts: int = 0
    agent_name: str = ""
    idempotent: bool = False
    tried: frozenset[str] = frozenset()
    why: str = ""

    @property
    def place(self) -> tuple[float, int, str]:
        """Its sort key in the queue: rank, then arrival."""
        return self.rank, self.asked.seq, self.asked.request_id


@dataclass(slots=True)
class Ended:
    """A request that has ended, and when, in monotonic seconds."""

    fact: RequestEnded
    at: float


@dataclass(frozen=True, slots=True)
class Stall:
    """Why a capability's queue does not move, and since when (monotonic seconds)."""

    reason: str
    nobody: bool
    since: float


Place = tuple[float, int, str]


class RequestBook:
    """All requests that are known; read freely, change through `apply` alone."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._clear()

    def _clear(self) -> None:
        self.active: dict[str, Request] = {}
        self.ended: dict[str, Ended] = {}
        self.queues: dict[str, list[Place]] = {}
        self.stalls: dict[str, Stall] = {}
        self.active_bytes = 0
        self.shares = Shares()
        self.results: dict[str, int] = {}
        self.kept_bytes = 0
        self.next_seq = 1
        self._load = Load()
        self._keys: dict[tuple[str, str], str] = {}

    # the fold

    def apply(self, fact: Fact, now: float) -> RequestStatus | None:
        """Takes a fact in; returns the status to publish once it is committed, where a request's state changed."""
        match fact:
            case RequestQueued():
                return self._queued(fact, now)
            case RequestStarted():
                return self._started(fact)
            case RequestReturned():
                return self._returned(fact, now)
            case RequestEnded():
                return self._ended(fact, now)
            case ResultDropped():
                self._drop_result(fact.request_id)
            case RequestForgotten():
                self._forget(fact.request_id)
            case CallSettled():
                self._load.settle((fact.request_id, fact.attempt))
            case _:
                self.stalls[fact.capability] = Stall(fact.reason, fact.nobody, now)
        return None

    def load(self, stored: Stored, now: float) -> None:
        """Begins anew from the stored present; deadlines, ageing and retention count from `now`."""
        self._clear()
        for end in stored.ends:
            self._keep(end, now)
        runs = dict(stored.runs)
        for queued in stored.queued:
            self.apply(queued, now)
            run = runs.get(queued.request_id)
            if run is not None:
                self._resume(self.active[queued.request_id], run)

    # questions

    def status(self, request_id: str) -> RequestStatus:
        """A request's state, with its result when done; NotFound when it never was or is no longer known."""
        ended = self.ended.get(request_id)
        if ended is not None:
            return _end_status(ended.fact)
        request = self.active.get(request_id)
        if request is None:
            raise NotFound(f"no request {request_id!r} is known")
        return self._status(request)

    def known(self, identity: str, key: str) -> tuple[str, bytes] | None:
        """The request that came with this idempotency key, and the digest of its body."""
        request_id = self._keys.get((identity, key))
        if request_id is None:
            return None
        ended = self.ended.get(request_id)
        return request_id, ended.fact.digest if ended else self.active[request_id].asked.digest

    @property
    def calls(self) -> Mapping[Call, str]:
        """The agent of every call that has not been settled."""
        return self._load.calls

    @property
    def turn(self) -> int:
        """How many calls there have been."""
        return self._load.turn

    def in_flight(self, agent_name: str) -> int:
        """Calls to the agent that have not been settled."""
        return self._load.in_flight(agent_name)

    def last_used(self, agent_name: str) -> int:
        """The turn at which the agent was last given a request; 0 when never."""
        return self._load.last_used(agent_name)

    def calls_to(self, agent_name: str) -> Collection[Call]:
        """The (request id, attempt) of every unsettled call to the agent, oldest first."""
        return self._load.calls_to(agent_name)

    def runs(self, request_id: str, attempt: int) -> bool:
        """Whether this attempt is the one the request waits for; what any other says is ignored."""
        request = self.active.get(request_id)
        return request is not None and request.state == "running" and request.attempts == attempt

    # inside

    def _queued(self, fact: RequestQueued, now: float) -> RequestStatus:
        if fact.request_id in self.active or fact.request_id in self.ended:
            raise Internal(f"request {fact.request_id} was queued before")
        request = Request(
            asked=fact,
            state="queued",
            rank=rank(fact.priority, now, self.limits.ageing_s),
            deadline=now + fact.deadline_s,
            not_before=now,
        )
        self.active[fact.request_id] = request
        self.active_bytes += fact.size()
        self.shares.weigh(1, fact.identity, fact.size())
        self.next_seq = max(self.next_seq, fact.seq + 1)
        if fact.idempotency_key:
            self._keys[fact.identity, fact.idempotency_key] = fact.request_id
        self._enqueue(request)
        return self._status(request)

    def _started(self, fact: RequestStarted) -> RequestStatus:
        request = self._move(fact.request_id, Move.START)
        request.attempts, request.agent_name, request.idempotent = fact.attempt, fact.agent_name, fact.idempotent
        self._load.begin((fact.request_id, fact.attempt), fact.agent_name)
        return self._status(request)

    def _returned(self, fact: RequestReturned, now: float) -> RequestStatus:
        request = self._move(fact.request_id, Move.RETURN)
        request.tried |= {fact.agent_name}
        request.agent_name, request.why, request.not_before = "", fact.why, now + fact.delay_s
        return self._status(request)

    def _ended(self, fact: RequestEnded, now: float) -> RequestStatus:
        request = self._move(fact.request_id, TO_END[fact.state])
        del self.active[fact.request_id]
        self.active_bytes -= request.asked.size()
        self.shares.weigh(-1, request.asked.identity, request.asked.size())
        self._keep(fact, now)
        return _end_status(fact, with_result=False)

    def _move(self, request_id: str, move: Move) -> Request:
        request = self.active.get(request_id)
        if request is None:
            raise Internal(f"request {request_id} cannot {move}: it has ended or never was")
        state = NEXT.get((request.state, move))
        if state is None:
            raise Internal(f"request {request_id} cannot {move} while {request.state}: {_story(request)}")
        if request.state == "queued":
            self._dequeue(request)
        request.state = state
        if state == "queued":
            self._enqueue(request)
        return request

    def _enqueue(self, request: Request) -> None:
        insort(self.queues.setdefault(request.asked.capability, []), request.place)
        self.shares.stand(1, request.asked.identity, request.asked.capability)

    def _dequeue(self, request: Request) -> None:
        capability = request.asked.capability
        queue = self.queues[capability]
        del queue[bisect_left(queue, request.place)]
        self.shares.stand(-1, request.asked.identity, capability)
        if not queue:
            del self.queues[capability]
            self.stalls.pop(capability, None)

    def _keep(self, fact: RequestEnded, now: float) -> None:
        self.ended[fact.request_id] = Ended(fact, now)
        if fact.result:
            self.results[fact.request_id] = len(fact.result)
            self.kept_bytes += len(fact.result)
        if fact.idempotency_key:
            self._keys[fact.identity, fact.idempotency_key] = fact.request_id

    def _drop_result(self, request_id: str) -> None:
        ended = self.ended[request_id]
        self.kept_bytes -= self.results.pop(request_id, 0)
        ended.fact = structs.replace(ended.fact, result=b"")

    def _forget(self, request_id: str) -> None:
        self._drop_result(request_id)
        fact = self.ended.pop(request_id).fact
        self._keys.pop((fact.identity, fact.idempotency_key), None)

    def _resume(self, request: Request, run: Run) -> None:
        if run.returned:
            request.attempts, request.tried = run.attempt, frozenset({run.agent_name})
        else:
            self._started(
                RequestStarted(
                    request_id=request.asked.request_id,
                    agent_name=run.agent_name,
                    attempt=run.attempt,
                    idempotent=run.idempotent,
                )
            )

    def _status(self, request: Request) -> RequestStatus:
        waits = request.state == "queued"
        return RequestStatus(
            request_id=request.asked.request_id,
            state=request.state,
            capability=request.asked.capability,
            agent_name=request.agent_name,
            attempts=request.attempts,
            position=self._position(request) if waits else 0,
            reason=self._reason(request) if waits else request.why,
        )

    def _position(self, request: Request) -> int:
        return bisect_left(self.queues[request.asked.capability], request.place) + 1

    def _reason(self, request: Request) -> str:
        stall = self.stalls.get(request.asked.capability)
        return "; ".join(part for part in (request.why, stall.reason if stall else "") if part)


def end_of(
    request: Request, state: State, at: str, *, code: str = "", error: str = "", result: bytes = b""
) -> RequestEnded:
    """The fact that `request` ended in `state`; it carries what must be known once the request's own row is gone."""
    asked = request.asked
    return RequestEnded(
        request_id=asked.request_id,
        state=state,
        capability=asked.capability,
        agent_name=request.agent_name,
        attempts=request.attempts,
        at=at,
        code=code,
        error=error,
        result=result,
        identity=asked.identity,
        idempotency_key=asked.idempotency_key,
        digest=asked.digest,
    )


def _end_status(fact: RequestEnded, *, with_result: bool = True) -> RequestStatus:
    gone = fact.state == "done" and not fact.result
    return RequestStatus(
        request_id=fact.request_id,
        state=fact.state,
        capability=fact.capability,
        agent_name=fact.agent_name,
        attempts=fact.attempts,
        result=msgpack.decode(fact.result) if with_result and fact.result else None,
        code=fact.code,
        error=RESULT_GONE if gone else fact.error,
    )


def _story(request: Request) -> str:
    asked = request.asked
    tried = ", ".join(sorted(request.tried)) or "nobody"
    return (
        f"{asked.capability}, priority {asked.priority}, accepted {asked.at} from {asked.identity or 'nobody known'}, "
        f"attempt {request.attempts} at {request.agent_name or 'nobody'}, tried before at {tried}"
    )
