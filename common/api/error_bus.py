"""ErrorBus's vocabulary: errors as they are told, and the groups they fall into.

Delivered once. A lone report may carry a `report_id`: the same id of the same agent counts once, also after a restart of
either side. A sender that spools uses `report_errors` instead: it numbers its reports 1, 2, 3 ... within an `epoch` of its own,
sends them in order and without a gap, one batch at a time, and goes on after the `seq` of the answer. What was counted before
is passed over, so an unanswered batch is sent again as it was, or with more behind it. One number for each sender and epoch
is all that is kept for this, committed together with the counts. Agents and senders are known by the host their calls come
from, so that none can pass for one of another host.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from common.api.words import Access, AnyVerb, Count, Cursor, Id, Message, Name, Text, Timestamp, Topic, Verb
from common.ids import MAX_WIRE_INT

SERVICE = "ErrorBus"
PORT, EVENTS_PORT, HEALTH_PORT = 7003, 7503, 8003

Severity = Literal["debug", "info", "warning", "error", "critical"]
GroupState = Literal["new", "ongoing", "resolved", "regressed"]
GroupChange = Literal["new", "ongoing", "resolved", "regressed", "forgotten"]
GroupedBy = Literal["explicit", "stack", "message"]
Times = Annotated[int, Meta(ge=1, le=MAX_WIRE_INT)]
Filter = Annotated[str, Meta(max_length=253)]

MAX_BATCH = 1_000


class StackFrame(Message, frozen=True):
    """One call of a stack; `own` says whether it is the agent's own code, where its sender knows."""

    file: Text
    function: str = ""
    line: Count = 0
    own: bool | None = None


class ErrorReport(Message, frozen=True):
    """One error, or `count` equal ones. Texts of any length are taken, and cut where they are kept.

    What it is grouped by: `fingerprint` where it is given; else `error_type` with the stack's frames in the agent's own code;
    else `error_type` with the message, numbers, paths, quoted text and the like masked. `stack` is a traceback as text, or its
    lines or frames, the innermost last. Own code is what a frame says, or what lies under one of the paths `own_code`, or what
    looks like neither a library nor Tandem. `host` is the caller's where absent, `occurred_at` the time of arrival.
    """

    agent: Name
    error_type: Annotated[str, Meta(min_length=1, max_length=16 * 1024 * 1024)]
    message: Text
    severity: Severity = "error"
    details: dict[str, Any] = {}
    stack: Text | list[Text | StackFrame] = ""
    host: Annotated[str, Meta(max_length=253)] = ""
    occurred_at: Timestamp = ""
    count: Times = 1
    fingerprint: Text = ""
    own_code: Annotated[list[Text], Meta(max_length=64)] = []
    report_id: Annotated[str, Meta(max_length=128)] = ""


class ErrorReported(Message, frozen=True):
    """The error is counted and durable; `repeated`: it had been before, by its `report_id`."""

    group_id: Id
    state: GroupChange
    repeated: bool = False


class ReportErrors(Message, frozen=True):
    """The reports `first_seq`, `first_seq` + 1 ... of a sender's `epoch`; none at all asks where the sender stands.

    `sender` names one spool, such as `mainpc/reader`; `epoch` is one life of its numbering, and a sender that no longer knows
    its numbers begins another one. `sent_at` is the sender's clock as it sends: with it the ages of the reports are told by
    one clock, and hosts whose clocks differ tell the same times. `lost` is how many reports the sender had to drop before these.
    A batch that cannot be understood is refused whole.
    """

    sender: Id
    epoch: Count
    first_seq: Times
    reports: Annotated[list[ErrorReport], Meta(max_length=MAX_BATCH)]
    sent_at: Timestamp = ""
    lost: Count = 0


class ErrorsTaken(Message, frozen=True):
    """Every report up to `seq` is counted and durable: go on after it; `repeated` of these had been counted before."""

    seq: Count
    taken: Count
    repeated: Count


class ListErrorGroups(Message, frozen=True):
    """The groups last seen most recently; `unresolved` is every state but resolved, an empty filter lets all pass."""

    state: Literal["", "unresolved", "new", "ongoing", "resolved", "regressed"] = ""
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    agent: Filter = ""
    host: Filter = ""
    error_type: Filter = ""
    severity: Literal["", "debug", "info", "warning", "error", "critical"] = ""


class ErrorGroup(Message, frozen=True):
    """Errors that are one problem. `group_id` is its fingerprint, `1:` and a hash: the same errors fall into it for ever.

    `message` is the masked message, or the explicit fingerprint; `severity` the highest told. `new` becomes `ongoing` when it
    occurs again a minute after its first time, or has occurred 100 times; `resolved` becomes `regressed` when it occurs after
    its resolution. `regressions` counts how often it came back.
    """

    group_id: Id
    state: GroupState
    error_type: str
    message: str
    severity: Severity
    grouped_by: GroupedBy
    count: Count
    first_seen: Timestamp
    last_seen: Timestamp
    agents: list[str]
    hosts: list[str]
    resolved_at: Timestamp = ""
    resolved_by: str = ""
    note: str = ""
    regressions: Count = 0


class ErrorGroups(Message, frozen=True):
    """The groups asked for, how many there are of them in all, and the place in `errors.changed` that this list reflects."""

    groups: list[ErrorGroup]
    total: Count
    as_of: Cursor


class ErrorSample(Message, frozen=True):
    """One report as it came, secrets hidden and long texts cut."""

    agent: str
    host: str
    occurred_at: Timestamp
    severity: Severity
    message: str
    stack: str
    details: dict[str, Any]


class GroupId(Message, frozen=True):
    """Names one group."""

    group_id: Id


class ErrorGroupDetail(ErrorGroup, frozen=True, kw_only=True):
    """A group with its counts and samples: the first reports and the newest ones, oldest first.

    Occurrences of agents and hosts beyond those counted by name are in `other_agents` and `other_hosts`.
    """

    by_agent: dict[str, Count]
    by_host: dict[str, Count]
    other_agents: Count
    other_hosts: Count
    samples: list[ErrorSample]


class ResolveErrorGroup(Message, frozen=True):
    """Says that the problem is dealt with; `note` says how. Resolving what is resolved changes nothing."""

    group_id: Id
    note: Annotated[str, Meta(max_length=1_000)] = ""


class ErrorGroupChanged(Message, frozen=True):
    """A group is in another state than before, or was forgotten to make room; the entity in the header is its id."""

    change: GroupChange
    group: ErrorGroup


REPORT_ERROR = Verb(
    "report_error", ErrorReport, ErrorReported, Access.USE, idempotent=False, summary="tell an error, and its group"
)
REPORT_ERRORS = Verb(
    "report_errors", ReportErrors, ErrorsTaken, Access.USE, summary="tell errors from a sender's spool"
)
LIST_ERROR_GROUPS = Verb("list_error_groups", ListErrorGroups, ErrorGroups, Access.READ, summary="errors, grouped")
GET_ERROR_GROUP = Verb(
    "get_error_group", GroupId, ErrorGroupDetail, Access.READ, summary="a group with its counts and samples"
)
RESOLVE_ERROR_GROUP = Verb(
    "resolve_error_group", ResolveErrorGroup, ErrorGroup, Access.USE, summary="say that a problem is dealt with"
)

VERBS: tuple[AnyVerb, ...] = (REPORT_ERROR, REPORT_ERRORS, LIST_ERROR_GROUPS, GET_ERROR_GROUP, RESOLVE_ERROR_GROUP)

ERRORS_CHANGED = Topic("errors.changed", ErrorGroupChanged, "a group's state changed, or it was forgotten")
TOPICS: tuple[Topic, ...] = (ERRORS_CHANGED,)
