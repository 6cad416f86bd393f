"""The durable tasks of ResourceManager: work for whichever agent offers a capability, done at least once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from common.api.words import (
    DEFAULT_PRIORITY,
    Access,
    AnyVerb,
    Count,
    Cursor,
    Empty,
    Id,
    Key,
    Message,
    Name,
    Priority,
    Seconds,
    Timestamp,
    Topic,
    Verb,
)

TaskState = Literal["queued", "running", "done", "failed", "expired", "cancelled", "dead"]
Span = Annotated[float, Meta(gt=0, le=31_536_000, description="seconds")]
Attempts = Annotated[int, Meta(ge=1, le=1_000, description="times a task may be tried")]
MaybeModel = Annotated[
    str,
    Meta(max_length=128, pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.:/@ -]*)?\Z", description="a managed model; empty: none"),
]


class SubmitTask(Message, frozen=True):
    """Has some agent that offers `capability` do the work of `payload`, sooner or later; where none is there it waits.

    An object's fields are what the agent's verb is called with, beside `task_id`, `request_id` (the same) and `attempt`; any
    other payload is its field `data`. An agent may be given the same task again after a failure or a crash, and tells so by
    `task_id`. The task begins after `delay_s` at the earliest and is over `deadline_s` after its submission at the latest
    (absent: never). One attempt may take `timeout_s`. Of an ended task everything is kept for `retain_s`.

    A task that needs a managed `model` begins once that is on loan for it, at an agent of the model's host, whose verb gets in
    the field `model` its `name`, `host`, `engine`, the `url` on that host's loopback and the name there, `upstream`. Tasks of
    one model run together, so that models are not changed for each; one that no host has by now is waited for.
    """

    capability: Name
    model: MaybeModel = ""
    payload: Any = None
    priority: Priority = DEFAULT_PRIORITY
    delay_s: Seconds = 0.0
    deadline_s: Span | None = None
    max_attempts: Attempts = 3
    timeout_s: Span = 3_600.0
    retain_s: Seconds = 86_400.0
    name: Annotated[str, Meta(max_length=256, description="for people")] = ""
    metadata: dict[str, Any] = {}
    idempotency_key: Key = ""


class TaskSubmitted(Message, frozen=True):
    """The task is durable; `duplicate` when it came before with the same idempotency key."""

    task_id: Id
    duplicate: bool = False


class TaskId(Message, frozen=True):
    """Names one task."""

    task_id: Id


class GetTask(Message, frozen=True):
    """Names one task; answered when it has ended, or after `wait_s` with the state so far."""

    task_id: Id
    wait_s: Seconds = 0.0


class TaskStatus(Message, frozen=True):
    """A task as it stands; `result` when done, `code` and `error` when not to be done, `reason` for waiting or trying again.

    `attempts` counts those that may have done something; `progress` is what the agent streamed last. `run_at` is when it may
    begin, `deadline_at` when it is over, `kept_until` when it is forgotten; empty where there is no such time.
    """

    task_id: Id
    state: TaskState
    capability: str
    model: str = ""
    name: str = ""
    priority: Priority = DEFAULT_PRIORITY
    attempts: Count = 0
    max_attempts: Count = 0
    agent_name: str = ""
    result: Any = None
    code: str = ""
    error: str = ""
    reason: str = ""
    progress: Any = None
    parts: Count = 0
    replays: Count = 0
    queued_at: Timestamp = ""
    run_at: Timestamp = ""
    started_at: Timestamp = ""
    ended_at: Timestamp = ""
    deadline_at: Timestamp = ""
    kept_until: Timestamp = ""
    metadata: dict[str, Any] = {}


class ListTasks(Message, frozen=True):
    """Tasks of one state, of one capability, of both or of any; what changed last comes first."""

    state: TaskState | None = None
    capability: str = ""
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100


class Tasks(Message, frozen=True):
    """The tasks asked for, without their results, how many there are of each state in all, and the place in `tasks.changed`."""

    tasks: list[TaskStatus]
    counts: dict[str, Count]
    as_of: Cursor


class TaskQueue(Message, frozen=True):
    """The tasks of one capability, and of one `model` where they need one: `delayed` ones are not yet to begin.

    `limit` is how many of the capability may run at a time, with whatever model (absent: any).
    """

    capability: str
    queued: Count
    delayed: Count
    running: Count
    agents: Count
    oldest_s: Seconds
    model: str = ""
    limit: Count | None = None
    reason: str = ""


class TaskQueues(Message, frozen=True):
    """Every capability, with every model, that has tasks waiting or running, or a limit."""

    queues: list[TaskQueue]


class LimitTasks(Message, frozen=True):
    """At most `running` tasks of the capability run at a time, whatever agents there are; 0 holds it back, absent frees it."""

    capability: Name
    running: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


class TaskChanged(Message, frozen=True):
    """A task changed state, or came forward while it runs; the entity in the header is its id."""

    change: Literal["state", "progress"]
    task: TaskStatus


SUBMIT_TASK = Verb(
    "submit_task", SubmitTask, TaskSubmitted, Access.USE, idempotent=False, summary="durable work for a capability"
)
GET_TASK = Verb("get_task", GetTask, TaskStatus, Access.READ, summary="a task's state, attempts, progress and result")
CANCEL_TASK = Verb("cancel_task", TaskId, TaskStatus, Access.USE, summary="withdraw a task, also from its agent")
LIST_TASKS = Verb("list_tasks", ListTasks, Tasks, Access.READ, summary="tasks by state and capability, and counts")
REPLAY_TASK = Verb(
    "replay_task", TaskId, TaskStatus, Access.USE, idempotent=False, summary="run a task that ended undone anew"
)
LIST_TASK_QUEUES = Verb(
    "list_task_queues", Empty, TaskQueues, Access.READ, summary="who waits for which capability, and why"
)
LIMIT_TASKS = Verb(
    "limit_tasks", LimitTasks, Empty, Access.CONTROL, summary="bound how many tasks of a capability run at a time"
)

VERBS: tuple[AnyVerb, ...] = (
    SUBMIT_TASK,
    GET_TASK,
    CANCEL_TASK,
    LIST_TASKS,
    REPLAY_TASK,
    LIST_TASK_QUEUES,
    LIMIT_TASKS,
)

TASKS_CHANGED = Topic("tasks.changed", TaskChanged, "a task changed state, or came forward")
TOPICS: tuple[Topic, ...] = (TASKS_CHANGED,)
