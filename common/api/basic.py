"""What every service and every agent answers: ping, health, info, stats and the events of the past."""

from __future__ import annotations

from typing import Any, Literal

from common.api.words import Access, Count, Cursor, Empty, Message, Name, Seconds, Timestamp, Topic, Verb

Status = Literal["ok", "degraded", "unhealthy"]
Phase = Literal["starting", "ready", "draining", "stopped", "crash-looping"]


class Health(Message, frozen=True):
    """The one health answer: of `ping`, `health_check`, raw `ping` and `health`, and of the health port.

    `ready` says whether work is taken; `reasons` says why not, or why `status` is not ok; `boot` changes with the process.
    `supervised` is the mark of the supervisor that started it, by which that knows its own; empty where it was started by hand.
    """

    status: Status
    ready: bool
    service: str
    version: str
    uptime: Seconds
    boot: str
    host: str = ""
    phase: Phase = "ready"
    reasons: list[str] = []
    lacks: list[str] = []
    supervised: str = ""


class VerbInfo(Message, frozen=True):
    """One verb as `info` shows it; `request` and `reply` are JSON schemas."""

    name: str
    access: str
    idempotent: bool
    streams: bool
    stability: str
    summary: str
    request: dict[str, Any]
    reply: dict[str, Any]


class TopicInfo(Message, frozen=True):
    """One topic as `info` shows it."""

    name: str
    summary: str
    event: dict[str, Any]


class Info(Message, frozen=True):
    """What this process is and offers."""

    service: str
    version: str
    protocol: int
    host: str
    boot: str
    pid: int
    verbs: list[VerbInfo]
    topics: list[TopicInfo]
    metadata: dict[str, Any] = {}


class VerbStats(Message, frozen=True):
    """One verb's figures since the process began; quantiles are of the recent past, in milliseconds."""

    count: Count
    errors: Count
    in_flight: Count
    p50_ms: float
    p95_ms: float
    p99_ms: float
    last_error: str = ""


class BreakerStats(Message, frozen=True):
    """One circuit breaker: its endpoint, its state and what its window holds."""

    endpoint: str
    state: Literal["closed", "open", "half_open"]
    calls: Count
    failures: Count
    slow: Count
    opened: Count
    retry_in_s: Seconds = 0.0


class Stats(Message, frozen=True):
    """The figures of a process: per verb, per breaker, and counters by name."""

    service: str
    boot: str
    uptime: Seconds
    verbs: dict[str, VerbStats]
    breakers: list[BreakerStats] = []
    counters: dict[str, float] = {}


class EventsSince(Message, frozen=True):
    """Asks for the events of `topic` after `cursor`; `snapshot_required` when the ring does not reach back so far."""

    topic: Name
    epoch: Count
    seq: Count
    limit: Count = 1_000


class PastEvent(Message, frozen=True):
    """One event as it was published."""

    seq: Count
    at: Timestamp
    entity: str
    event: Any


class Events(Message, frozen=True):
    """The events asked for, oldest first, and where the topic stands now."""

    events: list[PastEvent]
    as_of: Cursor


PING = Verb("ping", Empty, Health, Access.READ, summary="is it there, and is it well")
HEALTH_CHECK = Verb("health_check", Empty, Health, Access.READ, summary="the same, by its long name")
INFO = Verb("info", Empty, Info, Access.READ, summary="what it is, its verbs with schemas and its topics")
STATS = Verb("stats", Empty, Stats, Access.READ, summary="figures per verb, breakers, counters")
EVENTS_SINCE = Verb("events_since", EventsSince, Events, Access.READ, summary="events after a cursor, from the ring")

VERBS = (PING, HEALTH_CHECK, INFO, STATS, EVENTS_SINCE)


class Beat(Message, frozen=True):
    """Once a second: the last place of every topic, so that a lost last event shows."""

    last: dict[str, Cursor]


BEAT = Topic("beat", Beat, "once a second, the last place of every topic")
