"""ObservabilityHub's vocabulary: health verdicts of every process, host and link, and the history of metrics.

A verdict is about what can be seen from the hub's host: `healthy`, `degraded` (it works, not as it should), `unhealthy` (it says
so, or its process died), `unreachable` (it does not answer), `unknown` (nobody expects an answer, or none was asked for yet).
Where something is unreachable only because something else is, `because` names that, and it is no alarm of its own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from common.api.supervisor import Vitals
from common.api.words import Access, AnyVerb, Count, Cursor, Message, Name, Seconds, Timestamp, Topic, Verb

SERVICE = "ObservabilityHub"
PORT, EVENTS_PORT, HEALTH_PORT = 7002, 7502, 8002

Verdict = Literal["healthy", "degraded", "unhealthy", "unreachable", "unknown"]
What = Literal["host", "supervisor", "service", "agent", "link"]
Aggregate = Literal["avg", "min", "max", "sum", "last", "count", "rate"]
MetricKind = Literal["gauge", "counter"]
Millis = Annotated[float, Meta(ge=0, description="milliseconds")]
Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339")]
MetricName = Annotated[str, Meta(min_length=1, max_length=128)]
LabelValue = Annotated[str, Meta(max_length=128)]
Labels = Annotated[dict[MetricName, LabelValue], Meta(max_length=16)]

MAX_POINTS = 10_000
"""Points in one `push_metrics`."""


class GetHealth(Message, frozen=True):
    """Asks for every verdict, or for those of one host; `not_found` where nobody knows that host."""

    host: str = ""


class ProcessHealth(Message, frozen=True):
    """One process: its verdict, why and since when, and how long its last answer took.

    Where `probed` is false the verdict is its supervisor's word alone.
    """

    name: str
    host: str
    what: What
    verdict: Verdict
    reason: str
    because: str
    since: Timestamp
    latency_ms: Millis
    probed: bool
    phase: str = ""
    restarts: Count = 0


class HostHealth(Message, frozen=True):
    """One host: its supervisor's answer and its processes' taken together, and its vitals as last told."""

    host: str
    verdict: Verdict
    reason: str
    since: Timestamp
    latency_ms: Millis
    vitals: Vitals | None = None
    vitals_age_s: Seconds = 0.0


class LinkSide(Message, frozen=True):
    """A link as one end sees it."""

    seen_from: str
    up: bool
    round_trip_ms: Millis
    heard_s: Seconds
    since: Timestamp = ""
    reason: str = ""


class LinkHealth(Message, frozen=True):
    """The link between two hosts, with what each end says of it."""

    host: str
    peer: str
    verdict: Verdict
    reason: str
    since: Timestamp
    sides: list[LinkSide]


class FabricHealth(Message, frozen=True):
    """Every verdict, and the place in `health.changed` that it reflects. `doubt`: why the hub does not trust its own eyes now."""

    hosts: list[HostHealth]
    services: list[ProcessHealth]
    agents: list[ProcessHealth]
    links: list[LinkHealth]
    as_of: Cursor
    doubt: str = ""


class HealthChanged(Message, frozen=True):
    """A verdict changed; the entity in the header is `host/name`, `host` or `host-peer`."""

    what: What
    host: str
    name: str
    was: Verdict
    verdict: Verdict
    reason: str
    because: str = ""


class MetricPoint(Message, frozen=True):
    """One value; without `at` it is of now. A counter only ever grows, and begins anew with its process."""

    name: MetricName
    value: float
    labels: Labels = {}
    at: Instant | None = None
    kind: MetricKind = "gauge"


class PushMetrics(Message, frozen=True):
    """Hands in points of `agent`.

    With a `sender` each batch is taken once: within an epoch it has a higher `seq` than the one before.
    """

    agent: Name
    points: Annotated[list[MetricPoint], Meta(max_length=MAX_POINTS)]
    sender: Annotated[str, Meta(max_length=128)] = ""
    epoch: Count = 0
    seq: Count = 0


class MetricsTaken(Message, frozen=True):
    """How many points were taken and how many not, with the reason of the last; `repeated`: the whole batch was there before."""

    taken: Count
    dropped: Count = 0
    reason: str = ""
    repeated: bool = False


class QueryMetrics(Message, frozen=True):
    """Asks for the history of a metric, one point for each step. `labels` narrow it to the series that carry all of them.

    `start` defaults to five minutes before `end`, which defaults to now; `step_s` 0 lets the hub choose one for some 300 points.
    `rate` is the growth of a counter, or the change of a gauge, per second.
    """

    name: MetricName
    labels: Labels = {}
    agent: str = ""
    start: Instant | None = None
    end: Instant | None = None
    step_s: Seconds = 0.0
    aggregate: Aggregate = "avg"


class MetricValue(Message, frozen=True):
    """The value of one step; `at` is where the step begins."""

    at: Timestamp
    value: float


class MetricSeries(Message, frozen=True):
    """One series: whose, with which labels, and its points, oldest first."""

    agent: str
    labels: dict[str, str]
    kind: MetricKind
    points: list[MetricValue]


class MetricHistory(Message, frozen=True):
    """The series found; `more` are those beyond the limit of one answer. `step_s` is what was used."""

    name: str
    step_s: Seconds
    series: list[MetricSeries]
    more: Count = 0


class GetFigures(Message, frozen=True):
    """Asks for the figures per verb of every process, or of one."""

    name: str = ""


class VerbFigures(Message, frozen=True):
    """One verb of one process over the last stretch that was looked at; quantiles are those that the process tells."""

    verb: str
    count: Count
    errors: Count
    in_flight: Count
    per_s: float
    errors_per_s: float
    p50_ms: Millis
    p95_ms: Millis
    p99_ms: Millis
    last_error: str = ""


class ProcessFigures(Message, frozen=True):
    """The verbs of one process, as told `age_s` ago."""

    host: str
    name: str
    age_s: Seconds
    verbs: list[VerbFigures]


class Figures(Message, frozen=True):
    """The figures asked for."""

    processes: list[ProcessFigures]


GET_HEALTH = Verb("get_health", GetHealth, FabricHealth, Access.READ, summary="verdict and reason of everything")
PUSH_METRICS = Verb(
    "push_metrics", PushMetrics, MetricsTaken, Access.USE, idempotent=False, summary="hand in points of metrics"
)
QUERY_METRICS = Verb("query_metrics", QueryMetrics, MetricHistory, Access.READ, summary="the history of a metric")
GET_FIGURES = Verb("get_figures", GetFigures, Figures, Access.READ, summary="figures per verb of all processes")

VERBS: tuple[AnyVerb, ...] = (GET_HEALTH, PUSH_METRICS, QUERY_METRICS, GET_FIGURES)

HEALTH_CHANGED = Topic("health.changed", HealthChanged, "a verdict changed")

TOPICS: tuple[Topic, ...] = (HEALTH_CHANGED,)
