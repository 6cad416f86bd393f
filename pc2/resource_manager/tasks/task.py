"""A task: its record, the moves between its states, and the facts and instructions that decisions about tasks come to.

    queued -> running -> done | failed | dead | expired | cancelled
      ^ ^       |                   |
      | +-------+ returned: tried again
      +------------------- replayed: run anew, unless it was done

`failed`: the agent says that trying again cannot help. `dead`: every attempt that it may have came to nothing.

It decides nothing: which fact comes next is for `queue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from msgspec import Struct

from common.api.tasks import TaskState
from common.resilience import idempotency


class Moment(NamedTuple):
    """One moment on two clocks: `now` in monotonic seconds, `wall` in seconds since 1970."""

    now: float
    wall: float


class Move(StrEnum):
    """What happens to a task."""

    START = "start"
    RETURN = "return"
    FINISH = "finish"
    FAIL = "fail"
    BURY = "bury"
    EXPIRE = "expire"
    CANCEL = "cancel"
    REPLAY = "replay"


NEXT: Final[dict[tuple[TaskState, Move], TaskState]] = {
    ("queued", Move.START): "running",
    ("queued", Move.EXPIRE): "expired",
    ("queued", Move.CANCEL): "cancelled",
    ("running", Move.RETURN): "queued",
    ("running", Move.FINISH): "done",
    ("running", Move.FAIL): "failed",
    ("running", Move.BURY): "dead",
    ("running", Move.EXPIRE): "expired",
    ("running", Move.CANCEL): "cancelled",
    ("failed", Move.REPLAY): "queued",
    ("dead", Move.REPLAY): "queued",
    ("expired", Move.REPLAY): "queued",
    ("cancelled", Move.REPLAY): "queued",
}
"""The legal moves."""

TO_END: Final[dict[TaskState, Move]] = {
    "done": Move.FINISH,
    "failed": Move.FAIL,
    "dead": Move.BURY,
    "expired": Move.EXPIRE,
    "cancelled": Move.CANCEL,
}
ACTIVE: Final[frozenset[TaskState]] = frozenset({"queued", "running"})
UNDONE: Final[frozenset[TaskState]] = frozenset({"failed", "dead", "expired"})
"""Ends that somebody may want to look into: kept for longer."""


class Task(Struct, kw_only=True, gc=False):
    """A task as its row holds it; times are seconds since 1970, 0 for none. Only the book changes it.

    `seq` grows with each task accepted. `runs` numbers the calls made for it and never falls; `attempts` counts those that may
    have done something, since it was submitted or replayed. `delay_s` is the wait that led to `run_at`.
    """

    task_id: str
    seq: int
    capability: str
    priority: int
    max_attempts: int
    timeout_s: float
    retain_s: float
    queued_at: float
    run_at: float
    delay_s: float = 0.0
    deadline_s: float = 0.0
    deadline_at: float = 0.0
    name: str = ""
    metadata: dict[str, Any] = {}
    identity: str = ""
    host: str = ""
    size: int = 0
    model: str = ""
    state: TaskState = "queued"
    attempts: int = 0
    runs: int = 0
    replays: int = 0
    agent_name: str = ""
    tried: tuple[str, ...] = ()
    code: str = ""
    error: str = ""
    reason: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """Fact: a task was taken in, with its payload in msgpack."""

    task: Task
    payload: bytes


@dataclass(frozen=True, slots=True)
class Started:
    """Fact: the task was given to an agent."""

    task_id: str
    agent_name: str


@dataclass(frozen=True, slots=True)
class Returned:
    """Fact: its run came to nothing and it waits again, for `delay_s` at least; not `counted` where the agent did nothing."""

    task_id: str
    why: str
    delay_s: float
    counted: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """Fact: the task ended in `state`; `result` is msgpack, empty unless it is done."""

    task_id: str
    state: TaskState
    code: str = ""
    error: str = ""
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Fact: a task that ended undone runs anew, with all its attempts and its whole time."""

    task_id: str


@dataclass(frozen=True, slots=True)
class ResultDropped:
    """Fact: the results took too much room, so this one is no longer kept; how the task ended still is."""

    task_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Fact: the ended task is no longer known."""

    task_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class LimitSet:
    """Fact: at most `running` tasks of the capability run at a time; None: as many as its agents take."""

    capability: str
    running: int | None


@dataclass(frozen=True, slots=True)
class Settled:
    """Fact of memory alone: the agent no longer works on this run, whatever became of the task."""

    task_id: str
    run: int


@dataclass(frozen=True, slots=True)
class Stalled:
    """Fact of memory alone: why the tasks of a line wait, until something wakes them.

    Of one that needs a model: `free` are the hosts where an agent could take its first, of this `priority`, at once, and `able`
    those where one will sooner or later.
    """

    line: str
    reason: str
    free: frozenset[str] = frozenset()
    able: frozenset[str] = frozenset()
    priority: int = 0


Fact = (
    Accepted
    | Started
    | Returned
    | Ended
    | Replayed
    | ResultDropped
    | Forgotten
    | LimitSet
    | Settled
    | Stalled
    | idempotency.ReplyKept
    | idempotency.ReplyForgotten
)


@dataclass(frozen=True, slots=True)
class Send:
    """Call `verb` of the agent with `fields`; give up at `deadline` (monotonic seconds); report the outcome with this run."""

    task_id: str
    run: int
    agent_name: str
    verb: str
    fields: dict[str, Any]
    deadline: float


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the agent that this run is no longer wanted; its outcome is still reported."""

    task_id: str
    run: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Facts to apply and commit, then instructions to perform, both in order."""

    facts: tuple[Fact, ...] = ()
    instructions: tuple[Send | Withdraw, ...] = ()
