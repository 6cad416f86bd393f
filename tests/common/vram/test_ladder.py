from __future__ import annotations

from typing import Any

import pytest

from common.api.decisions import Rung, RungName
from common.vram.amount import GIB, MIB
from common.vram.cards import ProcessId
from common.vram.ladder import Act, Action, Answered, Finish, Ladder, Look, Looked, Outcome, OwnerGone, Target, Tick
from common.vram.rungs import LadderPolicy

POLICY = LadderPolicy(checkpoint_s=30.0, stop_s=20.0, signal_s=2.0, verify_s=5.0, term_s=10.0, kill_s=10.0, look_s=2.0)
ALL: tuple[RungName, ...] = ("sleep", "unload", "checkpoint", "stop", "term", "kill")


class Climb:
    """A ladder and the card it is climbed at: 24 GiB, of which the owner holds ten and strangers four."""

    def __init__(self, *rungs: RungName, hidden: bool = False, blind: bool = False, **target: Any) -> None:
        self.now = 100.0
        self.hidden = hidden
        self.held = 10 * GIB
        self.others = 4 * GIB
        aim: dict[str, Any] = {
            "owner": ProcessId(7, 77),
            "rungs": rungs,
            "expected_bytes": 10 * GIB,
            "held_bytes": None if hidden else self.held,
            "free_bytes": None if blind else self.free,
            "ask_s": 10.0,
        }
        self.ladder = Ladder(Target(**(aim | target)), POLICY, self.now)
        self.acts: list[RungName] = []
        self._perform(self.ladder.begin())

    @property
    def free(self) -> int:
        return 24 * GIB - self.held - self.others

    @property
    def outcome(self) -> Outcome:
        assert self.ladder.outcome is not None
        return self.ladder.outcome

    @property
    def over(self) -> bool:
        return self.ladder.outcome is not None

    def rung(self, name: RungName) -> Rung:
        return next(one for one in self.ladder.rungs() if one.rung == name)

    def _perform(self, actions: tuple[Action, ...]) -> tuple[Action, ...]:
        self.acts += [action.rung for action in actions if isinstance(action, Act)]
        return actions

    def after(self, seconds: float) -> Climb:
        self.now += seconds
        self._perform(self.ladder.step(Tick(), self.now))
        return self

    def answer(self, ok: bool = True, text: str = "done", rung: RungName | None = None) -> Climb:
        self._perform(self.ladder.step(Answered(rung or self.acts[-1], ok, text), self.now))
        return self

    def look(self, began_ago: float = 0.0, failed: bool = False) -> Climb:
        self.now += 0.1
        owner = None if self.hidden else self.held
        seen = Looked(self.now - began_ago - 0.01, owner, None if failed else self.free)
        self._perform(self.ladder.step(seen, self.now))
        return self

    def dies(self, held: int = 0) -> Climb:
        self.held = held
        self._perform(self.ladder.step(OwnerGone(), self.now))
        return self


def test_an_owner_shown_to_hold_nothing_is_watched_before_its_word_counts() -> None:
    climb = Climb("unload", "term", "kill", held_bytes=0)
    climb.held = 0
    climb.look().answer().look()
    assert not climb.over
    assert climb.after(POLICY.verify_s).over
    assert (climb.outcome.kind, climb.outcome.rung) == ("evicted", "unload")


def test_an_owner_shown_to_hold_no_more_than_a_sleeper_may_is_parked_when_it_says_so_and_still_does() -> None:
    climb = Climb("sleep", "term", "kill", held_bytes=128 * MIB, residual_bytes=400 * MIB)
    climb.held = 128 * MIB
    climb.look().answer(text="asleep").look()
    assert not climb.over, "it may be waking yet"
    assert climb.after(POLICY.verify_s).over
    assert (climb.outcome.kind, climb.outcome.rung, climb.outcome.left_bytes) == ("parked", "sleep", 128 * MIB)


def test_an_owner_that_dies_after_it_went_to_sleep_is_not_parked() -> None:
    climb = Climb("sleep", "term", "kill", held_bytes=128 * MIB, residual_bytes=400 * MIB)
    climb.held = 128 * MIB
    climb.look().answer(text="asleep").dies()
    climb.held = 0
    climb.look()
    assert (climb.outcome.kind, climb.outcome.left_bytes) == ("evicted", 0)


def test_an_owner_that_a_late_look_shows_to_have_held_is_believed_by_the_look_after() -> None:
    climb = Climb("unload", "term", "kill", held_bytes=0)
    climb.look(began_ago=1.0)
    climb.held = 0
    climb.answer().look()
    assert (climb.outcome.kind, climb.outcome.rung) == ("evicted", "unload")


def test_an_owner_that_says_done_while_its_load_is_on_the_way_is_not_believed() -> None:
    climb = Climb("unload", "term", "kill", held_bytes=0)
    climb.held = 0
    climb.answer().look()
    climb.held = 10 * GIB
    climb.look().after(POLICY.verify_s)
    assert climb.acts == ["unload", "term"]
    assert climb.rung("unload").outcome == "nothing"


def test_an_owner_shown_to_hold_nothing_and_silent_has_its_whole_time() -> None:
    climb = Climb("unload", "term", "kill", held_bytes=0)
    climb.held = 0
    climb.look().after(9.0)
    assert not climb.over
    climb.after(1.0)
    assert climb.rung("unload").claimed == "no answer within 10.1 s"
    assert (climb.outcome.kind, climb.outcome.rung) == ("evicted", "unload")


def test_an_owner_that_unloads_is_done_when_the_card_shows_it() -> None:
    climb = Climb("unload", "term", "kill")
    assert climb.acts == ["unload"]
    climb.answer(text="unloaded")
    assert not climb.over
    climb.held = 0
    climb.look()
    assert climb.outcome == Outcome(
        kind="evicted", rung="unload", returned_bytes=10 * GIB, left_bytes=0, verified=True, reason="by unload"
    )
    (rung,) = climb.ladder.rungs()
    assert (rung.claimed, rung.outcome, rung.bytes_before, rung.bytes_after) == ("unloaded", "freed", 10 * GIB, 0)
    assert rung.took_s == pytest.approx(0.1)
    assert climb.ladder.step(Tick(), climb.now + 100) == ()


def test_an_unload_that_says_done_while_its_bytes_stay_is_climbed_over() -> None:
    climb = Climb("unload", "term", "kill").answer(text="200 OK").look()
    assert not climb.over
    climb.look().after(5.0)
    assert climb.acts == ["unload", "term"]
    assert (climb.rung("unload").outcome, climb.rung("unload").claimed) == ("nothing", "200 OK")
    climb.answer(text="TERM to 1 process")
    climb.after(10.0)
    assert climb.acts == ["unload", "term", "kill"]
    climb.dies().look()
    assert (climb.outcome.kind, climb.outcome.rung, climb.outcome.returned_bytes) == ("evicted", "kill", 10 * GIB)
    assert [one.outcome for one in climb.ladder.rungs()] == ["nothing", "failed", "freed"]


def test_an_owner_that_is_ended_before_it_took_its_memory_may_take_it_while_it_lives() -> None:
    climb = Climb("term", "kill", held_bytes=0)
    climb.held = 0
    climb.look().answer(text="TERM to 1 process").look()
    assert not climb.over, "it holds nothing yet"
    climb.held = 10 * GIB
    climb.look().dies().look()
    assert (climb.outcome.kind, climb.outcome.rung) == ("evicted", "term")


def test_an_owner_that_holds_nothing_and_does_not_heed_term_is_killed() -> None:
    climb = Climb("term", "kill")
    climb.held = 0
    climb.look().answer().after(10.0)
    assert climb.acts == ["term", "kill"]
    climb.look().answer().after(10.0)
    assert (climb.outcome.kind, climb.outcome.rung) == ("evicted", "kill"), "it could not be ended, and holds nothing"


def test_an_owner_that_may_stay_warm_is_parked_with_its_residual() -> None:
    climb = Climb("sleep", "term", "kill", residual_bytes=400 * MIB)
    climb.held = 600 * MIB
    climb.look()
    assert not climb.over, "only the owner can say that it kept the weights"
    climb.answer(text="asleep")
    assert (climb.outcome.kind, climb.outcome.rung) == ("parked", "sleep")
    assert climb.outcome.returned_bytes == 10 * GIB - 600 * MIB
    assert climb.outcome.left_bytes == 600 * MIB


def test_an_owner_that_refuses_to_sleep_and_lets_go_all_the_same_is_not_parked() -> None:
    climb = Climb("sleep", "term", "kill")
    climb.held = 0
    climb.look().answer(ok=False, text="out of memory")
    assert not climb.over
    climb.look()
    assert climb.outcome.kind == "evicted"


def test_an_owner_that_lets_go_and_never_answers_is_evicted_in_its_time() -> None:
    climb = Climb("sleep", "term", "kill")
    climb.held = 0
    climb.look().after(9.0)
    assert not climb.over
    climb.after(1.0)
    assert (climb.outcome.kind, climb.rung("sleep").claimed) == ("evicted", "no answer within 10.1 s")


def test_an_owner_that_unloads_has_a_moment_to_say_so_once_its_bytes_are_gone() -> None:
    climb = Climb("unload", "term", "kill")
    climb.held = 0
    climb.look().look()
    assert not climb.over, "who leaves now would not hear its answer"
    climb.answer(text="unloaded")
    assert (climb.outcome.kind, climb.rung("unload").claimed) == ("evicted", "unloaded")


def test_an_owner_that_unloads_and_says_nothing_is_not_waited_for_in_its_whole_time() -> None:
    climb = Climb("unload", "term", "kill")
    climb.held = 0
    climb.look().look().after(0.8)
    assert not climb.over
    climb.after(0.2)
    assert (climb.outcome.kind, climb.rung("unload").claimed) == ("evicted", "no answer within 1.2 s")


def test_an_owner_that_takes_its_bytes_again_before_it_answers_has_its_whole_time() -> None:
    climb = Climb("unload", "term", "kill")
    climb.held = 0
    climb.look()
    climb.held = 10 * GIB
    climb.look().after(5.0)
    climb.held = 0
    climb.look().after(0.9)
    assert not climb.over
    climb.after(0.2)
    assert climb.outcome.kind == "evicted"


def test_a_refusal_is_looked_at_once_and_climbed_over() -> None:
    climb = Climb("unload", "stop").answer(ok=False, text="unknown verb")
    climb.look(began_ago=5.0)
    assert climb.acts == ["unload"]
    climb.look()
    assert climb.acts == ["unload", "stop"]
    assert (climb.rung("unload").outcome, climb.rung("unload").claimed) == ("failed", "unknown verb")


def test_a_look_that_began_at_the_refusal_itself_does_not_follow_it() -> None:
    climb = Climb("unload", "stop").after(1.0).answer(ok=False, text="unknown verb")
    climb.ladder.step(Looked(climb.now, climb.held, climb.free), climb.now + 0.1)
    assert climb.rung("unload") == climb.ladder.rungs()[-1]
    assert climb.look().acts == ["unload", "stop"]


def test_a_refusal_that_no_look_follows_is_climbed_over_in_time() -> None:
    climb = Climb("unload", "stop").answer(ok=False, text="busy").after(1.9)
    assert climb.acts == ["unload"]
    climb.after(0.1)
    assert climb.acts == ["unload", "stop"]
    assert climb.rung("unload").claimed == "busy; no look at the card followed"


def test_a_look_that_began_before_the_act_shows_nothing() -> None:
    climb = Climb("unload", "term")
    climb.held = 0
    climb.look(began_ago=1.0).answer()
    assert not climb.over
    assert climb.look().over


def test_a_failed_look_is_never_success() -> None:
    climb = Climb("unload").answer()
    climb.held = 0
    climb.look(failed=True)
    assert not climb.over
    climb.after(5.0)
    assert (climb.outcome.kind, climb.outcome.left_bytes) == ("quarantined", 10 * GIB)
    assert climb.rung("unload").outcome == "failed"


def test_free_memory_that_falls_while_it_should_rise_is_neither_wrapped_nor_success() -> None:
    climb = Climb("unload", "kill", hidden=True).answer()
    climb.others += 6 * GIB
    climb.look()
    assert not climb.over
    climb.after(5.0).answer().after(10.0)
    assert (climb.outcome.kind, climb.outcome.returned_bytes, climb.outcome.left_bytes) == ("quarantined", 0, 10 * GIB)
    assert [one.bytes_after for one in climb.ladder.rungs()] == [10 * GIB, 10 * GIB, 10 * GIB]


def test_what_others_take_of_the_freed_bytes_does_not_matter_where_processes_are_seen() -> None:
    climb = Climb("unload").answer()
    climb.held, climb.others = 0, 14 * GIB
    assert climb.look().outcome.kind == "evicted"


def test_where_processes_are_hidden_the_cards_free_bytes_tell_and_nothing_is_verified() -> None:
    climb = Climb("unload", hidden=True).answer()
    climb.held = 300 * MIB
    climb.look()
    assert (climb.outcome.kind, climb.outcome.verified) == ("evicted", False)
    assert "unverified" in climb.outcome.reason
    (rung,) = climb.ladder.rungs()
    assert (rung.verified, rung.bytes_before, rung.bytes_after) == (False, 10 * GIB, 300 * MIB)


def test_where_processes_are_hidden_what_others_let_go_of_is_not_the_owners() -> None:
    climb = Climb("unload", hidden=True).answer()
    climb.held, climb.others = 0, GIB
    climb.look()
    assert (climb.outcome.returned_bytes, climb.outcome.left_bytes) == (10 * GIB, 0)


def test_hidden_processes_and_no_look_before_can_prove_nothing() -> None:
    climb = Climb("unload", hidden=True, blind=True).answer()
    climb.held = 0
    climb.look().after(5.0)
    assert climb.outcome.kind == "quarantined"


def test_processes_that_come_to_be_seen_are_believed_again() -> None:
    climb = Climb("unload", hidden=True).answer()
    climb.hidden = False
    climb.look()
    climb.held = 0
    assert climb.look().outcome.verified


def test_a_second_instance_that_frees_only_half_is_recorded_as_a_part() -> None:
    climb = Climb("unload", "term", "kill").answer(text="unloaded")
    climb.held = 5 * GIB
    climb.look().after(5.0)
    part = climb.rung("unload")
    assert (part.outcome, part.bytes_before, part.bytes_after) == ("part", 10 * GIB, 5 * GIB)
    assert climb.acts[-1] == "term"
    climb.answer().dies()
    climb.look()
    assert (climb.outcome.rung, climb.outcome.returned_bytes) == ("term", 10 * GIB)
    assert climb.rung("term").bytes_before == 5 * GIB


def test_a_wake_that_failed_half_way_and_leaks_is_no_sleeper() -> None:
    climb = Climb("sleep", "unload", "term", expected_bytes=GIB, held_bytes=4 * GIB, residual_bytes=GIB)
    climb.held = 4 * GIB
    climb.answer(text="already asleep").look().after(5.0)
    climb.answer(text="nothing loaded").look().after(5.0)
    assert climb.acts == ["sleep", "unload", "term"]
    assert [climb.rung(name).outcome for name in ("sleep", "unload")] == ["nothing", "nothing"]
    climb.answer().dies()
    climb.look()
    assert (climb.outcome.kind, climb.outcome.returned_bytes) == ("evicted", 4 * GIB)


def test_an_owner_that_dies_during_the_wait_ends_the_ladder_as_soon_as_a_look_shows_it() -> None:
    climb = Climb("unload", "term", "kill").dies()
    assert not climb.over
    climb.look()
    assert (climb.outcome.kind, climb.outcome.reason) == ("evicted", "its owner ended by itself")
    assert climb.acts == ["unload"]


def test_a_dead_owner_whose_bytes_stay_is_quarantined_and_not_signalled() -> None:
    climb = Climb("unload", "term", "kill").dies(held=3 * GIB).dies(held=3 * GIB)
    climb.answer(ok=False, text="gone").look().after(4.0)
    assert not climb.over
    climb.after(1.0)
    assert climb.acts == ["unload"]
    assert climb.outcome.kind == "quarantined"
    assert climb.outcome.reason == "3.0 GiB stay though its owner has ended"
    assert climb.ladder.rungs()[-1].rung == "quarantine"


def test_a_sleeper_that_dies_is_not_parked() -> None:
    climb = Climb("sleep", "kill").answer(text="asleep").dies()
    assert climb.look().outcome.kind == "evicted"


def test_a_dead_owner_leaves_no_residual() -> None:
    climb = Climb("sleep", "kill", residual_bytes=2 * GIB).dies(held=GIB).look()
    assert not climb.over


def test_what_outlives_kill_is_quarantined_with_its_bytes() -> None:
    climb = Climb(*ALL)
    for _ in ALL:
        climb.answer().look().after(10.0)
    assert climb.acts == list(ALL)
    outcome = climb.outcome
    assert (outcome.kind, outcome.rung, outcome.left_bytes) == ("quarantined", "quarantine", 10 * GIB)
    assert outcome.reason == "10.0 GiB stay after sleep, unload, checkpoint, stop, term, kill"
    assert [one.rung for one in climb.ladder.rungs()] == [*ALL, "quarantine"]
    last = climb.ladder.rungs()[-1]
    assert (last.bytes_before, last.bytes_after, last.outcome, last.took_s) == (10 * GIB, 10 * GIB, "nothing", 0.0)


def test_an_owner_that_can_be_neither_asked_nor_ended_is_quarantined_at_once() -> None:
    climb = Climb(held_bytes=GIB)
    assert (climb.outcome.kind, climb.outcome.left_bytes) == ("quarantined", GIB)
    assert "nothing could be tried" in climb.outcome.reason


def test_an_owner_keeps_the_bytes_of_its_other_leases() -> None:
    climb = Climb("unload", keep_bytes=4 * GIB, expected_bytes=6 * GIB).answer(text="unloaded")
    climb.held = 4 * GIB
    climb.look()
    assert (climb.outcome.kind, climb.outcome.returned_bytes, climb.outcome.left_bytes) == ("evicted", 6 * GIB, 0)


def test_what_still_runs_when_its_time_is_over_is_left_behind_and_its_late_answer_recorded() -> None:
    climb = Climb("unload", "term").after(10.0)
    assert climb.acts == ["unload", "term"]
    climb.answer(text="unloaded", rung="unload")
    assert climb.rung("unload").claimed == "unloaded (after its time); no look at the card followed"
    climb.answer(text="again", rung="unload").answer(rung="kill")
    assert "again" not in climb.rung("unload").claimed
    assert climb.acts == ["unload", "term"]


def test_each_act_answer_and_tick_asks_for_a_look_until_it_is_over() -> None:
    ladder = Ladder(
        Target(owner=None, rungs=("unload",), expected_bytes=GIB, held_bytes=GIB, free_bytes=GIB), POLICY, now=1.0
    )
    assert ladder.begin() == (Act("unload"), Look())
    assert ladder.next_at == 11.0
    assert ladder.step(Tick(), 2.0) == (Look(),)
    assert ladder.step(Answered("unload", True, "done"), 3.0) == (Look(),)
    assert ladder.next_at == 8.0
    (finished,) = ladder.step(Tick(), 8.0)
    assert isinstance(finished, Finish)
