"""The facts of a request's life, the moves between its states, and the rows that make the facts outlive the process.

    queued -> running -> done | failed | expired | cancelled
      ^         |
      +---------+  returned: nothing was done, or it may be done again

A request's row with its data lies in `requests` until it ends, its latest run in `request_runs`, and how it ended in
`request_ends`, with the result beside it in `request_results`. Durability is NORMAL: kill -9 loses nothing, loss of power may.

It decides nothing: which fact comes next is for `requests`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from msgspec import Raw, Struct, structs

from common.api.core_orchestrator import State
from common.store.protocol import Change, RecordStore
from common.store.records import Records


class Move(StrEnum):
    """What happens to a request."""

    START = "start"
    RETURN = "return"
    FINISH = "finish"
    FAIL = "fail"
    EXPIRE = "expire"
    CANCEL = "cancel"


NEXT: Final[dict[tuple[State, Move], State]] = {
    ("queued", Move.START): "running",
    ("queued", Move.FAIL): "failed",
    ("queued", Move.EXPIRE): "expired",
    ("queued", Move.CANCEL): "cancelled",
    ("running", Move.RETURN): "queued",
    ("running", Move.FINISH): "done",
    ("running", Move.FAIL): "failed",
    ("running", Move.EXPIRE): "expired",
    ("running", Move.CANCEL): "cancelled",
}
"""The legal moves; the states that no move leaves are final."""

TO_END: Final[dict[State, Move]] = {
    "done": Move.FINISH,
    "failed": Move.FAIL,
    "expired": Move.EXPIRE,
    "cancelled": Move.CANCEL,
}


class RequestQueued(Struct, frozen=True, kw_only=True, tag_field="fact", tag="request_queued.1"):
    """Fact: a request was accepted. `seq` grows with each, `digest` stands for its body, `host` is where its caller is."""

    request_id: str
    seq: int
    capability: str
    priority: int
    deadline_s: float
    at: str
    identity: str = ""
    host: str = ""
    idempotency_key: str = ""
    digest: bytes = b""
    data: str | None = None
    audio_data: bytes = b""
    image_data: bytes = b""
    params: dict[str, Any] | None = None

    def size(self) -> int:
        """Bytes of data held for it, roughly: text counts a byte a character, `params` nothing."""
        return len(self.data or "") + len(self.audio_data) + len(self.image_data)


class RequestStarted(Struct, frozen=True, kw_only=True, tag_field="fact", tag="request_started.1"):
    """Fact: the request was given to an agent for the `attempt`-th time; `idempotent`: there it may be done twice."""

    request_id: str
    agent_name: str
    attempt: int
    idempotent: bool


class RequestReturned(Struct, frozen=True, kw_only=True, tag_field="fact", tag="request_returned.1"):
    """Fact: the `attempt`-th run came to nothing and the request waits again, for `delay_s` seconds at least."""

    request_id: str
    agent_name: str
    attempt: int
    delay_s: float
    why: str


class RequestEnded(Struct, frozen=True, kw_only=True, tag_field="fact", tag="request_ended.1"):
    """Fact: the request ended in `state`; `result` is msgpack, empty where there is none or it is no longer kept."""

    request_id: str
    state: State
    capability: str
    agent_name: str
    attempts: int
    at: str
    code: str = ""
    error: str = ""
    result: bytes = b""
    identity: str = ""
    idempotency_key: str = ""
    digest: bytes = b""


class ResultDropped(Struct, frozen=True, kw_only=True, tag_field="fact", tag="result_dropped.1"):
    """Fact: the results took too much room, so this one is no longer kept; how the request ended still is."""

    request_id: str


class RequestForgotten(Struct, frozen=True, kw_only=True, tag_field="fact", tag="request_forgotten.1"):
    """Fact: the ended request is no longer known."""

    request_id: str


class CallSettled(Struct, frozen=True, kw_only=True, tag_field="fact", tag="call_settled.1"):
    """Fact of memory alone: the agent no longer works on this attempt, whatever became of the request."""

    request_id: str
    attempt: int


class QueueStalled(Struct, frozen=True, kw_only=True, tag_field="fact", tag="queue_stalled.1"):
    """Fact of memory alone: why the requests for a capability wait; `nobody` when no agent is known or expected."""

    capability: str
    reason: str
    nobody: bool = False


Fact = (
    RequestQueued
    | RequestStarted
    | RequestReturned
    | RequestEnded
    | ResultDropped
    | RequestForgotten
    | CallSettled
    | QueueStalled
)


class Run(Struct, frozen=True, kw_only=True):
    """Row: the latest run of a request that has not ended; `returned` when it is over and the request waits again."""

    agent_name: str
    attempt: int
    idempotent: bool = False
    returned: bool = False


class Result(Struct, frozen=True, kw_only=True):
    """Row: what the agent answered, as msgpack."""

    result: Raw


QUEUED: Final = Records("requests", RequestQueued)
RUNS: Final = Records("request_runs", Run)
ENDS: Final = Records("request_ends", RequestEnded)
RESULTS: Final = Records("request_results", Result)


def rows(fact: Fact) -> tuple[Change, ...]:
    """What must be committed for `fact` to outlive a kill; nothing for facts of memory alone."""
    match fact:
        case RequestQueued():
            return (QUEUED.put(fact.request_id, fact),)
        case RequestStarted():
            run = Run(agent_name=fact.agent_name, attempt=fact.attempt, idempotent=fact.idempotent)
            return (RUNS.put(fact.request_id, run),)
        case RequestReturned():
            return (RUNS.put(fact.request_id, Run(agent_name=fact.agent_name, attempt=fact.attempt, returned=True)),)
        case RequestEnded():
            return _end_rows(fact)
        case ResultDropped():
            return (RESULTS.delete(fact.request_id),)
        case RequestForgotten():
            return ENDS.delete(fact.request_id), RESULTS.delete(fact.request_id)
        case _:
            return ()


def _end_rows(fact: RequestEnded) -> tuple[Change, ...]:
    key = fact.request_id
    ended = (QUEUED.delete(key), RUNS.delete(key), ENDS.put(key, structs.replace(fact, result=b"")))
    return (*ended, RESULTS.put(key, Result(result=Raw(fact.result)))) if fact.result else ended


@dataclass(frozen=True, slots=True)
class Stored:
    """The present as the tables hold it."""

    queued: tuple[RequestQueued, ...] = ()
    runs: tuple[tuple[str, Run], ...] = ()
    ends: tuple[RequestEnded, ...] = ()


def load(store: RecordStore) -> Stored:
    """Reads the tables: requests by age, ends by time, each end with its result where that is kept."""
    results = {key: bytes(row.result) for key, row in RESULTS.load(store)}
    ends = (structs.replace(end, result=results.get(key, b"")) for key, end in ENDS.load(store))
    return Stored(
        queued=tuple(sorted(_values(QUEUED.load(store)), key=lambda queued: queued.seq)),
        runs=tuple(RUNS.load(store)),
        ends=tuple(sorted(ends, key=lambda end: (end.at, end.request_id))),
    )


def _values(loaded: Iterable[tuple[str, RequestQueued]]) -> Iterable[RequestQueued]:
    return (queued for _, queued in loaded)
