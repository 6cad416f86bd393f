"""Whatever is told to a ladder, in any order, it ends in time and never says freed but by a look that began after the act."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.api.decisions import RungName
from common.vram.cards import ProcessId
from common.vram.ladder import Act, Action, Answered, Finish, Ladder, Looked, OwnerGone, Target, Tick
from common.vram.rungs import LadderPolicy, Means, rungs_for

POLICY = LadderPolicy(tolerance_bytes=1)
TOTAL, EXPECTED, RESIDUAL, KEPT = 24, 10, 1, 2
yes = st.booleans()


class Climbing(RuleBasedStateMachine):
    @initialize(sleep=yes, unload=yes, stop=yes, known=yes, spared=yes, hidden=yes, shares=yes)
    def start(
        self, sleep: bool, unload: bool, stop: bool, known: bool, spared: bool, hidden: bool, shares: bool
    ) -> None:
        self.now, self.hidden, self.others = 50.0, hidden, 3
        self.keep = KEPT if shares else 0
        self.held = EXPECTED + self.keep
        means = Means(known=known, sleep=sleep, unload=unload, stop=stop, spared="x" if spared or shares else "")
        self.rungs = rungs_for(means)
        target = Target(
            owner=ProcessId(1, 1) if known else None,
            rungs=self.rungs,
            expected_bytes=EXPECTED,
            held_bytes=None if hidden else self.held,
            free_bytes=self.free,
            keep_bytes=self.keep,
            residual_bytes=RESIDUAL,
        )
        self.ladder = Ladder(target, POLICY, self.now)
        self.must_end_by = self.now + POLICY.longest_s(self.rungs, target.ask_s)
        self.acted: list[RungName] = []
        self.acted_at = self.now
        self.proof: Looked | None = None
        self.gone = False
        self.take(self.ladder.begin(), None)

    @property
    def free(self) -> int:
        return TOTAL - self.held - self.others

    def take(self, actions: tuple[Action, ...], look: Looked | None) -> None:
        if look is not None and look.free_bytes is not None and look.began_at > self.acted_at:
            self.proof = look
        for action in actions:
            if isinstance(action, Act):
                assert not self.gone
                self.acted.append(action.rung)
                self.acted_at, self.proof = self.now, None
            elif isinstance(action, Finish) and action.outcome.kind != "quarantined":
                assert self.proof is not None
                assert self.proof.began_at > self.acted_at
                gave = self.proof.free_bytes or 0
                left = EXPECTED - (gave - self.ladder.target.free_bytes) if self.hidden else self.proof.owner_bytes  # type: ignore[operator]
                assert left is not None
                assert left <= (0 if self.hidden else self.keep) + RESIDUAL + 1

    def tell(self, event: Answered | Looked | OwnerGone | Tick) -> None:
        self.take(self.ladder.step(event, self.now), event if isinstance(event, Looked) else None)

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 6.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.ladder.next_at:
            self.now = max(self.now - seconds, self.ladder.next_at)
        self.tell(Tick())

    @rule(ok=yes, which=st.integers(0, 5))
    @precondition(lambda self: self.acted)
    def an_act_is_answered(self, ok: bool, which: int) -> None:
        self.tell(Answered(self.acted[which % len(self.acted)], ok, "said"))

    @rule(ago=st.sampled_from([0.0, 0.005, 3.0]), failed=yes)
    def the_card_is_looked_at(self, ago: float, failed: bool) -> None:
        self.now += 0.01
        self.tell(Looked(self.now - ago, None if self.hidden else self.held, None if failed else self.free))

    @rule(size=st.integers(0, EXPECTED + 2))
    def the_owner_holds(self, size: int) -> None:
        self.held = min(size, TOTAL - self.others)

    @rule(size=st.integers(0, 12))
    def strangers_hold(self, size: int) -> None:
        self.others = min(size, TOTAL - self.held)

    @rule()
    @precondition(lambda self: self.ladder.outcome is None)
    def the_owner_ends(self) -> None:
        self.gone = True
        self.tell(OwnerGone())

    @invariant()
    def it_ends_in_time(self) -> None:
        if self.ladder.outcome is None:
            assert self.now <= self.must_end_by
            assert self.ladder.next_at <= self.must_end_by

    @invariant()
    def the_rungs_are_climbed_in_order_and_add_up(self) -> None:
        assert tuple(self.acted) == self.rungs[: len(self.acted)]
        reports = self.ladder.rungs()
        assert [one.rung for one in reports if one.rung != "quarantine"] == self.acted
        for lower, upper in pairwise(reports):
            if upper.rung != "quarantine":
                assert lower.bytes_after == upper.bytes_before


TestClimbing = Climbing.TestCase
TestClimbing.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
