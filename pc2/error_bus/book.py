"""All error groups: what a report changes, within the limits of what is held.

`take` and `take_batch` judge everything that may fail before they change anything, so a report that is refused leaves no trace.
What a turn changed is collected, and `settle` gives it out as rows and events: a group that a thousand reports of one batch
fell into is written once. It stores and sends nothing and reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import nlargest
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from common.api import error_bus as api
from common.errors import NotFound
from common.store.protocol import Change, RecordStore
from pc2.error_bus.deliveries import Deliveries
from pc2.error_bus.fingerprint import Fingerprint, fingerprint
from pc2.error_bus.forgetting import Forgetting
from pc2.error_bus.groups import ROWS, SAMPLES, Group, Row
from pc2.error_bus.occurrence import Moment, occurred
from pc2.error_bus.samples import TITLE_CHARS, Hiding, begin_of, title_of

STATES: Final[tuple[api.GroupState, ...]] = ("new", "ongoing", "resolved", "regressed")


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is held; whichever bound is reached first, groups are forgotten."""

    groups: Annotated[int, Meta(ge=1, le=1_000_000, description="groups")] = 10_000
    chars: Annotated[int, Meta(ge=65_536, le=2**34, description="characters of all groups and samples, roughly")] = (
        2**26
    )


@dataclass(slots=True)
class Figures:
    """What was counted in this life, for the metrics."""

    errors: int = 0
    reports: int = 0
    repeated: int = 0
    lost: int = 0
    forgotten: dict[tuple[str, ...], int] = field(default_factory=lambda: {("resolved",): 0, ("unresolved",): 0})


class _Judged(NamedTuple):
    """One report, as it will be counted; the `teller` is the agent as its caller's host knows it."""

    report: api.ErrorReport
    into: Fingerprint
    teller: str
    host: str
    at: Moment


class Settled(NamedTuple):
    """What changed since the last time: to commit, and then to publish."""

    rows: list[Change]
    events: list[api.ErrorGroupChanged]


class ErrorBook:
    """The groups and what was delivered."""

    def __init__(self, hiding: Hiding, limits: Limits | None = None) -> None:
        self._hiding = hiding
        self._limits = limits or Limits()
        self.figures = Figures()
        self.deliveries = Deliveries()
        self._clear()

    def _clear(self) -> None:
        self._groups: dict[str, Group] = {}
        self._forgetting = Forgetting()
        self._chars = 0
        self.states: dict[api.GroupState, int] = dict.fromkeys(STATES, 0)
        self._touched: dict[str, None] = {}
        self._rows: list[Change] = []
        self._events: list[api.ErrorGroupChanged] = []

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def chars(self) -> int:
        """Characters held for groups and samples, roughly."""
        return self._chars

    # what happens

    def take(self, report: api.ErrorReport, host: str, now: Moment) -> api.ErrorReported:
        """Counts one report, once for its id; `host` is the caller's. BadRequest for a time that is none.

        Ids and senders' names are their host's own: no host can say that another's reports were counted.
        """
        judged = _judge(report, host, "", now)
        group_id = self._counted_in(judged)
        if group_id:
            self.figures.repeated += 1
            known = self._groups.get(group_id)
            state: api.GroupChange = known.row.state if known is not None else "forgotten"
            return api.ErrorReported(group_id=group_id, state=state, repeated=True)
        group = self._count(judged, now)
        return api.ErrorReported(group_id=group.row.group_id, state=group.row.state)

    def take_batch(self, asked: api.ReportErrors, host: str, now: Moment) -> api.ErrorsTaken:
        """Counts what of a batch was not counted before; BadRequest for a time that is none, and then none is counted."""
        sender = f"{host}/{asked.sender}"
        reached = self.deliveries.seq(sender, asked.epoch)
        known = max(0, min(len(asked.reports), reached + 1 - asked.first_seq))
        judged = [_judge(report, host, asked.sent_at, now) for report in asked.reports[known:]]
        taken = 0
        for one in judged:
            if not self._counted_in(one):
                self._count(one, now)
                taken += 1
        repeated = len(asked.reports) - taken
        self.figures.repeated += repeated
        if judged:
            self.figures.lost += asked.lost if not known else 0
            reached = asked.first_seq + len(asked.reports) - 1
            self.deliveries.counted_to(sender, asked.epoch, reached)
        return api.ErrorsTaken(seq=reached, taken=taken, repeated=repeated)

    def resolve(self, group_id: str, by: str, note: str, now: Moment) -> api.ErrorGroup:
        """Says that a group is dealt with; NotFound where there is none."""
        group = self._group(group_id)
        was = group.row.state
        if group.resolve(by, begin_of(note, len(note), self._hiding), now):
            self._forgetting.resolved(group_id)
            self._changed(group, was)
        return group.shown()

    def settle(self) -> Settled:
        """What changed since this was asked last."""
        rows, self._rows = self._rows, []
        rows += (
            ROWS.put(group_id, self._groups[group_id].row) for group_id in self._touched if group_id in self._groups
        )
        rows += self.deliveries.rows()
        self._touched = {}
        events, self._events = self._events, []
        return Settled(rows, events)

    # what is known

    def groups(self, asked: api.ListErrorGroups) -> tuple[list[api.ErrorGroup], int]:
        """The groups asked for, last seen first, and how many there are of them."""
        found = [group for group in self._groups.values() if _passes(group.row, asked)]
        newest = nlargest(asked.limit, found, key=lambda group: (group.row.last_at, group.row.group_id))
        return [group.shown() for group in newest], len(found)

    def detail(self, group_id: str) -> api.ErrorGroupDetail:
        """The whole of one group; NotFound where there is none."""
        return self._group(group_id).detail()

    def load(self, store: RecordStore, now: Moment) -> None:
        """Begins anew from what the store holds; StorageUnavailable when it cannot be read, and it is to be loaded again.

        A sample whose group's row somebody deleted, because it could not be read, is passed over.
        """
        rows = [row for _, row in ROWS.load(store)]
        samples = [(key.rpartition("/")[0], sample) for key, sample in SAMPLES.load(store)]
        self.deliveries.load(store)
        self._clear()
        for row in sorted(rows, key=lambda row: row.resolved_at if row.state == "resolved" else row.last_at):
            self._restore(row, now)
        for group_id, sample in samples:
            group = self._groups.get(group_id)
            if group is not None:
                self._chars -= group.chars
                group.keep(sample)
                self._chars += group.chars

    def _restore(self, row: Row, now: Moment) -> None:
        group = Group(row)
        self._add(group)
        if row.state == "resolved":
            group.resolved = now.monotonic - max(0.0, now.wall - row.resolved_at)
            self._forgetting.resolved(row.group_id)

    # inside

    def _counted_in(self, judged: _Judged) -> str:
        report_id = judged.report.report_id
        return self.deliveries.group_of(judged.teller, report_id) if report_id else ""

    def _group(self, group_id: str) -> Group:
        group = self._groups.get(group_id)
        if group is None:
            raise NotFound(f"no error group {group_id!r}; see list_error_groups")
        return group

    def _count(self, judged: _Judged, now: Moment) -> Group:
        report, into, teller, host, at = judged
        group = self._groups.get(into.group_id)
        is_new = group is None
        if group is None:
            group = self._begin(report, into)
        was = group.row.state
        moved = group.count(report, host, at, now)
        if group.row.state != "resolved":
            self._forgetting.seen(into.group_id, group.row.owner)
        self._keep_sample(group, judged, now)
        if report.report_id:
            self.deliveries.counted(teller, report.report_id, into.group_id)
        if is_new:
            self._tell("new", group)
        if moved:
            self._changed(group, was)
        self._touched[into.group_id] = None
        self.figures.reports += 1
        self.figures.errors += report.count
        return group

    def _begin(self, report: api.ErrorReport, into: Fingerprint) -> Group:
        while len(self._groups) >= self._limits.groups:
            self._forget(self._forgetting.next())
        group = Group(
            Row(
                group_id=into.group_id,
                grouped_by=into.grouped_by,
                error_type=begin_of(report.error_type, TITLE_CHARS, self._hiding),
                message=title_of(report, self._hiding),
                owner=report.agent,
            )
        )
        self._add(group)
        return group

    def _add(self, group: Group) -> None:
        row = group.row
        self._groups[row.group_id] = group
        self._forgetting.seen(row.group_id, row.owner)
        self.states[row.state] += 1
        self._chars += group.chars

    def _keep_sample(self, group: Group, judged: _Judged, now: Moment) -> None:
        before = group.chars
        sample = group.sample(judged.report, judged.host, judged.at, now, self._hiding)
        if sample is None:
            return
        self._chars += group.chars - before
        self._rows.append(SAMPLES.put(f"{group.row.group_id}/{sample.place}", sample))
        while self._chars > self._limits.chars and len(self._groups) > 1:
            self._forget(self._forgetting.next())

    def _forget(self, group_id: str) -> None:
        group = self._groups.pop(group_id)
        self._forgetting.drop(group_id)
        self._chars -= group.chars
        self.states[group.row.state] -= 1
        self.figures.forgotten[("resolved" if group.row.state == "resolved" else "unresolved",)] += 1
        self._rows.append(ROWS.delete(group_id))
        self._rows += (SAMPLES.delete(f"{group_id}/{place}") for place in group.samples)
        self._tell("forgotten", group)

    def _changed(self, group: Group, was: api.GroupState) -> None:
        self.states[was] -= 1
        self.states[group.row.state] += 1
        self._touched[group.row.group_id] = None
        self._tell(group.row.state, group)

    def _tell(self, change: api.GroupChange, group: Group) -> None:
        self._events.append(api.ErrorGroupChanged(change=change, group=group.shown()))


def _judge(report: api.ErrorReport, host: str, sent_at: str, now: Moment) -> _Judged:
    at = occurred(report.occurred_at, sent_at, now)
    return _Judged(report, fingerprint(report), f"{host}/{report.agent}", report.host or host, at)


def _passes(row: Row, asked: api.ListErrorGroups) -> bool:
    wanted = asked.state
    return (
        (not wanted or row.state == wanted or (wanted == "unresolved" and row.state != "resolved"))
        and (not asked.agent or asked.agent in row.agents)
        and (not asked.host or asked.host in row.hosts)
        and (not asked.error_type or asked.error_type == row.error_type)
        and (not asked.severity or asked.severity == row.severity)
    )
