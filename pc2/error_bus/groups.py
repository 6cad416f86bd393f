"""One group of errors: its counts, its states, and how an occurrence changes them.

    new -> ongoing -> resolved -> regressed
     |________________^   ^___________|

A new group is ongoing when it occurs again ONGOING_AFTER_S after its first time, or has occurred ONGOING_COUNT times. A
resolved one regresses when it occurs after its resolution: what happened before and arrives late, from a spool, counts and
changes no state. Occurrence and resolution are compared on the monotonic clock, so that a stepped clock neither hides a
regression nor makes one. A group's memory is bounded: agents and hosts beyond a number share one count.

It stores nothing, and which groups there are is for `book`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any, Final

from msgspec import Struct

from common.api.error_bus import ErrorGroup, ErrorGroupDetail, ErrorReport, GroupedBy, GroupState, Severity
from common.errors import Conflict
from common.ids import MAX_WIRE_INT
from common.store.records import Records
from pc2.error_bus.occurrence import Moment, timestamp_of
from pc2.error_bus.samples import FIRST, Hiding, Sample, in_order, sample_of

ONGOING_AFTER_S: Final = 60.0
ONGOING_COUNT: Final = 100
AGENTS: Final = 64
HOSTS: Final = 16
SAMPLE_EVERY_S: Final = 10.0
"""A storm writes one sample in so many seconds, once the first ones are taken."""

SEVERITIES: Final[tuple[Severity, ...]] = ("debug", "info", "warning", "error", "critical")
CHARS: Final = 2_048
"""Characters that a group holds beside its samples, at most, roughly."""


class Move(StrEnum):
    """What happens to a group."""

    LAST = "last"
    RESOLVE = "resolve"
    RETURN = "return"


NEXT: Final[dict[tuple[GroupState, Move], GroupState]] = {
    ("new", Move.LAST): "ongoing",
    ("new", Move.RESOLVE): "resolved",
    ("ongoing", Move.RESOLVE): "resolved",
    ("regressed", Move.RESOLVE): "resolved",
    ("resolved", Move.RETURN): "regressed",
}
"""The legal moves."""


class Row(Struct, kw_only=True):
    """A group as it is stored; times are seconds since 1970. `owner` is the agent that told of it first."""

    group_id: str
    grouped_by: GroupedBy
    error_type: str
    message: str
    owner: str
    state: GroupState = "new"
    severity: Severity = "debug"
    count: int = 0
    first_at: float = inf
    last_at: float = 0.0
    agents: dict[str, int] = {}
    other_agents: int = 0
    hosts: dict[str, int] = {}
    other_hosts: int = 0
    resolved_at: float = 0.0
    resolved_by: str = ""
    note: str = ""
    regressions: int = 0
    samples: int = 0


ROWS: Final = Records("error_groups", Row)
SAMPLES: Final = Records("error_samples", Sample)


@dataclass(slots=True)
class Group:
    """A group in memory; `resolved` and `sampled` are monotonic seconds."""

    row: Row
    samples: dict[int, Sample] = field(default_factory=dict)
    resolved: float = -inf
    sampled: float = -inf
    chars: int = CHARS

    def count(self, report: ErrorReport, host: str, at: Moment, now: Moment) -> bool:
        """Takes occurrences in that happened `at` and arrived `now`; whether the group's state changed."""
        row = self.row
        times = min(report.count, MAX_WIRE_INT - row.count)
        row.count += times
        if SEVERITIES.index(report.severity) > SEVERITIES.index(row.severity):
            row.severity = report.severity
        row.last_at = max(min(row.last_at, now.wall), at.wall)
        row.first_at = min(row.first_at, at.wall, row.last_at)
        row.other_agents += _by_name(row.agents, report.agent, times, AGENTS)
        row.other_hosts += _by_name(row.hosts, host, times, HOSTS)
        return self._moved(at)

    def _moved(self, at: Moment) -> bool:
        row = self.row
        if row.state == "new" and (row.count >= ONGOING_COUNT or row.last_at - row.first_at >= ONGOING_AFTER_S):
            self._move(Move.LAST)
            return True
        if row.state == "resolved" and at.monotonic > self.resolved:
            self._move(Move.RETURN)
            row.regressions += 1
            return True
        return False

    def resolve(self, by: str, note: str, now: Moment) -> bool:
        """The problem is dealt with; False, and nothing changed, when it was so already."""
        if self.row.state == "resolved":
            return False
        self._move(Move.RESOLVE)
        self.resolved = now.monotonic
        self.row.resolved_at, self.row.resolved_by, self.row.note = now.wall, by, note
        return True

    def _move(self, move: Move) -> None:
        row = self.row
        following = NEXT.get((row.state, move))
        if following is None:
            raise Conflict(f"group {row.group_id} is {row.state}, seen {row.count} times: it cannot {move}")
        row.state = following

    def sample(self, report: ErrorReport, host: str, at: Moment, now: Moment, hiding: Hiding) -> Sample | None:
        """The sample that this report becomes, if it is one of the first or the newest is old enough."""
        if self.row.samples >= FIRST and now.monotonic - self.sampled < SAMPLE_EVERY_S:
            return None
        sample = sample_of(report, self.row.samples, host, at.wall, hiding)
        self.sampled = now.monotonic
        self.row.samples += 1
        self.keep(sample)
        return sample

    def keep(self, sample: Sample) -> None:
        """Puts a sample in its place."""
        replaced = self.samples.get(sample.place)
        self.chars += sample.chars() - (replaced.chars() if replaced is not None else 0)
        self.samples[sample.place] = sample

    def shown(self) -> ErrorGroup:
        """As lists and events tell it."""
        return ErrorGroup(**self._fields())

    def detail(self) -> ErrorGroupDetail:
        """The whole of it."""
        row = self.row
        return ErrorGroupDetail(
            **self._fields(),
            by_agent=dict(row.agents),
            by_host=dict(row.hosts),
            other_agents=row.other_agents,
            other_hosts=row.other_hosts,
            samples=in_order(self.samples.values()),
        )

    def _fields(self) -> dict[str, Any]:
        row = self.row
        return {
            "group_id": row.group_id,
            "state": row.state,
            "error_type": row.error_type,
            "message": row.message,
            "severity": row.severity,
            "grouped_by": row.grouped_by,
            "count": row.count,
            "first_seen": timestamp_of(row.first_at),
            "last_seen": timestamp_of(row.last_at),
            "agents": list(row.agents),
            "hosts": list(row.hosts),
            "resolved_at": timestamp_of(row.resolved_at) if row.resolved_at else "",
            "resolved_by": row.resolved_by,
            "note": row.note,
            "regressions": row.regressions,
        }


def _by_name(counts: dict[str, int], name: str, times: int, most: int) -> int:
    """Counts by name; what is to be counted among the others, for want of a place."""
    if name not in counts and len(counts) >= most:
        return times
    counts[name] = counts.get(name, 0) + times
    return 0
