"""Senders that repeat themselves, lone reports, resolutions, time, restarts and failed commits, in any order."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.api.error_bus import ErrorReport, ListErrorGroups
from pc2.error_bus.book import Limits
from pc2.error_bus.fingerprint import fingerprint
from pc2.error_bus.groups import NEXT, ROWS, SAMPLES
from tests.pc2.error_bus.desk import Desk, report

TYPES = st.sampled_from(["A", "B", "C", "D", "E"])
SENDERS = st.sampled_from(["mainpc/reader", "pc2/writer"])
REPORTS = st.builds(
    report, TYPES, agent=st.sampled_from(["reader", "writer"]), count=st.sampled_from([1, 2, 99]),
    severity=st.sampled_from(["warning", "critical"]), host=st.sampled_from(["", "pc2"]),
)  # fmt: skip


class BookMachine(RuleBasedStateMachine):
    """With few groups allowed, so that they are forgotten; what was counted is counted again beside it."""

    groups = 4

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(Limits(groups=self.groups))
        self.spools: dict[str, list[ErrorReport]] = {}
        self.acknowledged: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.states: dict[str, str] = {}
        self.ids: set[tuple[str, str]] = set()

    def counts(self, told: ErrorReport) -> None:
        self.counted[fingerprint(told).group_id] += told.count

    def follow(self) -> None:
        """Fold the events as a watcher would."""
        for event in self.desk.events:
            group_id = event.group.group_id
            if event.change == "forgotten":
                del self.states[group_id]
                del self.counted[group_id]
                continue
            was = self.states.get(group_id)
            legal = (
                was is None if event.change == "new" else (was, event.change) in {(a, b) for (a, _), b in NEXT.items()}
            )
            assert legal, f"{was} became {event.change}"
            self.states[group_id] = event.change
        self.desk.events = []

    @rule(sender=SENDERS, fresh=st.lists(REPORTS, max_size=3), again=st.integers(0, 3))
    def deliver(self, sender: str, fresh: list[ErrorReport], again: int) -> None:
        """A sender goes on from what was acknowledged, or from before it when an answer was lost."""
        spool = self.spools.setdefault(sender, [])
        spool += fresh
        first = max(0, self.acknowledged[sender] - again)
        before = self.acknowledged[sender]
        taken = self.desk.batch(spool[first:], first_seq=first + 1, sender=sender)
        assert taken.taken == len(spool) - before
        assert taken.repeated == before - first
        assert taken.seq == (len(spool) if spool[first:] else before)
        self.acknowledged[sender] = len(spool)
        self.settle_events(spool[before:])

    @rule(told=REPORTS, report_id=st.sampled_from(["", "1", "2"]))
    def tell(self, told: ErrorReport, report_id: str) -> None:
        known = (told.agent, report_id) in self.ids
        fields = {name: getattr(told, name) for name in ("agent", "count", "severity", "host")}
        taken = self.desk.take(told.error_type, told.message, report_id=report_id, **fields)
        assert taken.repeated == known
        if report_id:
            self.ids.add((told.agent, report_id))
        self.settle_events([] if known else [told])

    def settle_events(self, told: list[ErrorReport]) -> None:
        """Counts go with their groups: what was counted into a group before it was forgotten is gone."""
        held = set(self.desk.listed())
        gone = any(event.change == "forgotten" for event in self.desk.events)
        self.follow_with(told)
        if not gone:
            assert {name for name in self.counted if self.counted[name]} == held

    def follow_with(self, told: list[ErrorReport]) -> None:
        for one in told:
            self.counts(one)
        forgotten = [event.group.group_id for event in self.desk.events if event.change == "forgotten"]
        self.follow()
        for group_id in forgotten:
            if group_id in self.states:
                self.counted[group_id] = self.desk.book.detail(group_id).count

    @rule(index=st.integers(0, 10))
    def resolve(self, index: int) -> None:
        listed = self.desk.listed()
        if listed:
            self.desk.passes(0.5)
            self.desk.resolve(listed[index % len(listed)])
            self.desk.passes(0.5)
            self.follow()

    @rule(seconds=st.sampled_from([0.1, 30.0, 100.0]), step=st.sampled_from([0.0, 0.0, -1_000.0, 1_000.0]))
    def time_passes(self, seconds: float, step: float) -> None:
        self.desk.passes(seconds)
        self.desk.wall += step

    @rule()
    def restart(self) -> None:
        before = [self.desk.book.detail(name) for name in sorted(self.desk.listed())]
        self.desk.restart()
        assert [self.desk.book.detail(name) for name in sorted(self.desk.listed())] == before

    @rule(told=REPORTS)
    def a_commit_fails(self, told: ErrorReport) -> None:
        """What was decided is lost with its commit, and memory begins again from the store."""
        self.desk.book.take(told, "mainpc", self.desk.now)
        self.desk.book.load(self.desk.store, self.desk.now)
        assert self.desk.book.settle() == ([], [])

    @invariant()
    def no_more_is_held_than_allowed(self) -> None:
        assert len(self.desk.book) <= self.groups

    @invariant()
    def every_error_acknowledged_is_counted_once(self) -> None:
        for group in self.desk.book.groups(ListErrorGroups())[0]:
            assert group.count == self.counted[group.group_id]

    @invariant()
    def a_watcher_knows_every_state(self) -> None:
        shown: dict[str, Any] = {group.group_id: group.state for group in self.desk.book.groups(ListErrorGroups())[0]}
        assert shown == self.states
        assert sum(self.desk.book.states.values()) == len(shown)
        assert Counter(shown.values()) == +Counter(self.desk.book.states)

    @invariant()
    def times_and_sums_agree(self) -> None:
        for name in self.desk.listed():
            group = self.desk.book.detail(name)
            assert group.first_seen <= group.last_seen
            assert group.count == sum(group.by_agent.values()) == sum(group.by_host.values())
            assert group.samples

    @invariant()
    def the_tables_hold_the_present_and_no_more(self) -> None:
        rows = dict(ROWS.load(self.desk.store))
        assert rows.keys() == set(self.desk.listed())
        samples = Counter(key.partition("/")[0] for key, _ in SAMPLES.load(self.desk.store))
        assert samples == {name: len(self.desk.book.detail(name).samples) for name in rows}


BookMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBookMachine = BookMachine.TestCase
