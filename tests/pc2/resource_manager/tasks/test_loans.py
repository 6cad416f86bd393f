"""Loans of models for tasks: what is asked for, kept and given back, by tables of needs and moments."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any

import pytest

from common.api.leases import LeaseGranted
from common.api.models import ModelProgress, ModelReady
from common.errors import Internal, NoCapacity, NotFound, TandemError, Unavailable
from pc2.resource_manager.callers import Caller
from pc2.resource_manager.tasks.loan import BATCH_S, State
from pc2.resource_manager.tasks.loans import CALLER_S, MOST_AGAIN_S, MOST_PAUSE_S, Ask, Desist, GiveBack, Loans
from pc2.resource_manager.tasks.wants import Need

FULL = NoCapacity("no room")
PC2 = frozenset({"pc2"})
BOTH = frozenset({"pc2", "mainpc"})


def ready(
    model: str = "a", host: str = "pc2", expires_in_s: float = 30.0, card_uuid: str = "GPU-0", of_host: bool = False
) -> ModelReady:
    lease = LeaseGranted(f"lease-{model}", host, 0, card_uuid, 7, expires_in_s, 0)
    return ModelReady(
        model, host, "http://127.0.0.1:1", model, "llama-server", lease, 0.0, loaded=True, of_host=of_host
    )


def wants(free: frozenset[str] = PC2, running: int = 0, since: float = 0.0, **more: Any) -> Need:
    """A line whose first could begin."""
    return Need(waits=True, running=running, since=since, free=free, able=more.pop("able", free), **more)


def busy(running: int = 1, waits: bool = True) -> Need:
    """Tasks run, and more wait for an agent or not."""
    return Need(waits=waits, running=running, able=PC2)


class Desk:
    """Loans on a manual clock; the steps of a look are told in short, and each number is kept."""

    def __init__(self) -> None:
        self.loans = Loans()
        self.now = 0.0
        self.callers: dict[int, Caller] = {}
        self.needs: dict[str, Need] = {}
        self.numbers: dict[str, int] = {}

    def look(self, after_s: float = 0.0, **needs: Need | None) -> list[str]:
        self.now += after_s
        self.needs = {model: need for model, need in {**self.needs, **needs}.items() if need is not None}
        told = []
        for step in self.loans.look(self.needs, self.now, self.callers):
            match step:
                case Ask():
                    self.numbers[step.model] = step.number
                    told.append(f"ask {step.model} {step.host or 'anywhere'}")
                case Desist():
                    told.append(f"desist {step.model}")
                case GiveBack():
                    told.append(f"back {step.model}")
        return told

    def grant(self, model: str, host: str = "pc2", **has: Any) -> None:
        assert self.loans.granted(model, self.numbers[model], ready(model, host, inf, **has), self.now)

    def refuse(self, model: str, error: TandemError = FULL) -> None:
        self.loans.refused(model, self.numbers[model], error, self.now)

    def hold(self, model: str, host: str = "pc2", **has: Any) -> None:
        """The model is on loan and in use."""
        self.look(**{model: wants()})
        self.grant(model, host, **has)
        self.look(**{model: busy()})

    def waits(self, model: str, **room: bool) -> None:
        """The model is asked for, and its host tells what room it waits for."""
        self.look(**{model: wants()})
        self.loans.told(model, self.numbers[model], ModelProgress("queued", "pc2", 1, 0.0, None, "", **room))

    def held(self) -> set[str]:
        """The models on which tasks may begin."""
        return {model for model in self.needs if self.loans.lent(model) is not None}


@pytest.mark.parametrize(
    ("need", "steps"),
    [
        (wants(), ["ask a pc2"]),
        (wants(BOTH), ["ask a anywhere"]),
        (Need(waits=True), []),
        (Need(waits=True, able=PC2), []),
        (Need(waits=True, unsure=True), []),
        (Need(running=1), []),
    ],
)
def test_a_model_is_asked_for_when_a_task_could_begin_but_for_it(need: Need, steps: list[str]) -> None:
    assert Desk().look(a=need) == steps


def test_who_has_waited_longest_is_asked_for_first() -> None:
    assert Desk().look(a=wants(since=5.0), b=wants(since=3.0)) == ["ask b pc2", "ask a pc2"]


@pytest.mark.parametrize(
    ("need", "steps"),
    [
        (busy(), []),
        (busy(0), []),
        (busy(1, waits=False), []),
        (Need(waits=True, unsure=True), []),
        (Need(waits=True), ["back a"]),
        (Need(), ["back a"]),
        (wants(frozenset({"mainpc"})), ["back a", "ask a mainpc"]),
        (wants(frozenset({"mainpc"}), running=1), []),
        (None, ["back a"]),
    ],
)
def test_a_loan_is_kept_while_its_tasks_wait_or_run_where_an_agent_is(need: Need | None, steps: list[str]) -> None:
    desk = Desk()
    desk.hold("a")
    assert desk.look(a=need) == steps


def test_what_is_not_wanted_any_more_is_not_asked_for() -> None:
    desk = Desk()
    desk.look(a=wants())
    assert desk.look(a=None) == ["desist a"]
    desk.look(a=wants())
    desk.refuse("a")
    assert desk.look(a=None) == []
    assert len(desk.loans) == 0


def test_a_refused_model_is_asked_for_again_later_and_later() -> None:
    desk = Desk()
    desk.look(a=wants())
    pauses = []
    for _ in range(7):
        desk.refuse("a", NotFound("no model 'a'"))
        waited = 0
        while not desk.look(after_s=1.0):
            waited += 1
        pauses.append(waited + 1)
    assert pauses == [1, 2, 4, 8, 16, MOST_AGAIN_S, MOST_AGAIN_S]
    assert desk.loans.reason("a") == "it waits for a: no model 'a'"


def test_a_hint_of_when_to_ask_again_is_taken_within_bounds() -> None:
    desk = Desk()
    desk.look(a=wants())
    desk.refuse("a", Unavailable("away", retry_after_ms=5_000))
    assert desk.look(after_s=4.5) == []
    assert desk.look(after_s=0.5) == ["ask a pc2"]
    desk.refuse("a", Unavailable("away", retry_after_ms=5_000_000))
    assert desk.look(a=Need(waits=True, able=PC2), after_s=MOST_AGAIN_S) == []
    assert desk.look(a=wants()) == ["ask a pc2"]


def test_a_refused_model_that_nobody_can_use_now_is_not_asked_for() -> None:
    desk = Desk()
    desk.look(a=wants())
    desk.refuse("a")
    assert desk.look(a=Need(waits=True, able=PC2), after_s=99.0) == []


def test_a_model_asked_of_one_host_is_asked_of_all_once_an_agent_is_free_on_another() -> None:
    desk = Desk()
    desk.look(a=wants())
    assert desk.look(a=wants(BOTH)) == ["ask a anywhere"]
    assert desk.look() == desk.look(a=wants()) == []
    desk.refuse("a")
    assert desk.look(after_s=1.0) == ["ask a pc2"]
    desk.refuse("a", NotFound("no model 'a' on pc2"))
    assert desk.look() == []
    assert desk.look(a=wants(BOTH)) == ["ask a anywhere"]


def test_a_model_that_is_being_loaded_is_not_asked_for_elsewhere() -> None:
    desk = Desk()
    desk.look(a=wants())
    desk.loans.told("a", 1, ModelProgress("loading", "pc2", 0, 1.0, 11.6, "cold"))
    assert desk.look(a=wants(BOTH)) == []


def test_why_tasks_wait_is_told_as_the_host_tells_it() -> None:
    desk = Desk()
    loans = desk.loans
    assert loans.reason("a") == "it waits for a, which is about to be asked for"
    desk.look(a=wants())
    assert loans.reason("a") == "it waits for a: it was asked for"
    part = ModelProgress("loading", "pc2", 0, 1.0, 11.6, "cold")
    assert loans.told("a", 1, part)
    assert not loans.told("a", 1, part)
    assert loans.reason("a") == "it waits for a: loading on pc2, about 12 s: cold"
    assert loans.told("a", 1, ModelProgress("queued", "pc2", 0, 1.0, None, ""))
    assert loans.reason("a") == "it waits for a: queued on pc2"
    assert loans.lent("a") is None
    desk.grant("a")
    lent = loans.lent("a")
    assert lent is not None
    assert lent.host == "pc2"


def test_a_lost_loan_is_asked_for_anew_also_for_what_runs() -> None:
    desk = Desk()
    desk.hold("a")
    desk.loans.lost("a", 1, "evicted", desk.now)
    assert desk.loans.lent("a") is None
    assert desk.loans.reason("a") == "it waits for a: its loan has ended: evicted"
    assert desk.look(a=busy(1, waits=False)) == []
    assert desk.look(after_s=1.0) == ["ask a pc2"]
    desk.loans.lost("a", 2, "there is none to lose", desk.now)
    desk.grant("a")
    assert desk.look(a=None) == ["back a"]


def test_a_loan_that_is_not_known_to_be_renewed_is_lost() -> None:
    desk = Desk()
    desk.look(a=wants())
    assert desk.loans.granted("a", 1, ready(), desk.now)
    desk.loans.renewed("a", 1, 50.0)
    desk.look(a=busy(), after_s=49.0)
    assert desk.loans.lent("a") is not None
    assert desk.look(after_s=1.0) == []
    assert desk.loans.reason("a") == "it waits for a: its loan has ended: it could not be renewed in time"
    assert desk.look(after_s=1.0) == ["ask a pc2"]


def test_what_is_told_of_a_request_that_is_over_changes_nothing() -> None:
    desk = Desk()
    desk.look(a=wants())
    desk.look(a=None)
    loans = desk.loans
    assert not loans.told("a", 1, ModelProgress("queued", "pc2", 0, 1.0, None, ""))
    assert not loans.granted("a", 1, ready(), 0.0)
    loans.refused("a", 1, FULL, 0.0)
    loans.renewed("a", 1, 9.0)
    loans.lost("a", 1, "gone", 0.0)
    desk.look(a=wants())
    assert not loans.granted("a", 1, ready(), 0.0)
    assert loans.lent("a") is None


def test_after_a_batch_a_model_makes_room_for_one_that_waited_as_long() -> None:
    desk = Desk()
    desk.hold("a")
    assert desk.look(b=wants(since=0.0)) == ["ask b pc2"]
    assert desk.look(after_s=BATCH_S - 1) == []
    assert desk.loans.lent("a")
    assert desk.look(after_s=1.0) == []
    assert desk.loans.lent("a") is None
    assert "is given back when what runs on it has ended" in desk.loans.reason("a")
    assert desk.look(a=wants()) == ["back a"]
    assert "was given back to make room" in desk.loans.reason("a")
    assert desk.look(after_s=5.0) == []
    desk.grant("b")
    assert desk.look(b=busy()) == ["ask a pc2"]


def test_a_model_that_waited_long_gets_no_room_of_one_that_just_came() -> None:
    desk = Desk()
    desk.look(b=wants())
    for _ in range(7 * int(BATCH_S) + 5):
        desk.look(after_s=1.0)
    desk.hold("a")
    desk.look(after_s=BATCH_S - 1)
    assert desk.loans.lent("a")
    desk.look(after_s=1.0)
    assert not desk.loans.lent("a")


@pytest.mark.parametrize("end", ["granted", "gone", "on another host"])
def test_a_model_that_yields_is_kept_when_nobody_needs_its_room_any_more(end: str) -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants(BOTH))
    desk.look(after_s=BATCH_S)
    assert not desk.loans.lent("a")
    if end == "granted":
        desk.grant("b", "mainpc")
    elif end == "gone":
        desk.look(b=None)
    else:
        desk.loans.told("b", desk.numbers["b"], ModelProgress("loading", "mainpc", 0, 1.0, 5.0, ""))
    assert desk.look() == []
    assert desk.loans.lent("a")


@pytest.mark.parametrize("error", [NotFound("no model 'b'"), Unavailable("pc2 is away"), Internal("a bug")])
def test_nobody_makes_room_for_a_model_that_lacks_something_else(error: TandemError) -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants())
    desk.refuse("b", error)
    for _ in range(10):
        if desk.look(after_s=30.0):
            desk.refuse("b", error)
        desk.look()
        assert desk.loans.lent("a")


@pytest.mark.parametrize("model", ["a", "b"])
def test_after_a_batch_a_model_makes_room_for_a_caller_who_waits(model: str) -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(after_s=BATCH_S)
    desk.callers = {1: Caller(model, desk.now)}
    desk.look(a=busy(0))
    assert desk.loans.lent("a")
    assert desk.look(after_s=CALLER_S) == ["back a"]
    assert desk.look(a=wants(), after_s=5.0) == []
    desk.callers[1].at = "mainpc"
    assert desk.look() == ["ask a pc2"]
    desk.refuse("a")
    desk.callers = {}
    assert desk.look(after_s=1.0) == ["ask a pc2"]


def test_nobody_makes_room_for_a_model_that_is_on_its_way() -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants())
    desk.loans.told("b", desk.numbers["b"], ModelProgress("loading", "pc2", 0, 1.0, 200.0, ""))
    desk.callers = {1: Caller("c", 0.0, coming=True)}
    desk.look(after_s=2 * BATCH_S)
    assert desk.loans.lent("a")


def test_a_caller_for_whom_all_made_room_in_vain_has_its_next_turn_later() -> None:
    desk = Desk()
    desk.hold("a")
    desk.callers = {1: Caller("b", 0.0)}
    assert desk.look(a=wants(), after_s=BATCH_S) == ["back a"]
    assert desk.look() == []
    assert desk.look(after_s=BATCH_S) == ["ask a pc2"]
    desk.grant("a")
    desk.look(a=busy(), after_s=BATCH_S - 1)
    assert desk.loans.lent("a")
    desk.look(after_s=1.0)
    assert desk.loans.lent("a") is None


def test_a_model_of_another_host_makes_no_room() -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants(frozenset({"mainpc"})))
    desk.look(after_s=2 * BATCH_S)
    assert desk.loans.lent("a")


def test_when_all_have_made_room_in_vain_they_come_back_and_the_next_time_is_later_and_later() -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants())
    told: list[tuple[float, str]] = []
    while desk.now < 6 * MOST_PAUSE_S:
        for step in desk.look(a=wants() if desk.loans.lent("a") is None else busy(), after_s=1.0):
            told.append((desk.now, step))
            if step.startswith("ask a"):
                desk.grant("a")
    rests = [now for now, step in told if step == "back a"]
    resting = [back - gone for (gone, _), (back, _) in zip(told[::2], told[1::2], strict=False)]
    assert all(BATCH_S <= each <= BATCH_S + 2 for each in resting)
    gaps = [later - sooner for sooner, later in pairwise(rests)]
    assert gaps == sorted(gaps)
    assert gaps[0] < 4 * BATCH_S
    assert MOST_PAUSE_S <= gaps[-1] < MOST_PAUSE_S + 2 * BATCH_S


def test_a_refusal_when_all_have_made_room_ends_the_turn() -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants())
    desk.refuse("b")
    desk.look(b=Need(waits=True, able=PC2), after_s=BATCH_S)
    assert desk.look(a=wants()) == ["back a"]
    assert desk.look() == []
    assert desk.look(b=wants()) == ["ask b pc2"]
    desk.refuse("b")
    assert desk.look() == ["ask a pc2"]
    desk.grant("a")
    desk.look(a=busy(), after_s=BATCH_S - 1)
    assert desk.loans.lent("a")


def test_who_was_refused_is_asked_for_at_once_when_all_have_made_room() -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants())
    desk.look(after_s=BATCH_S - 1)
    desk.refuse("b", NoCapacity("no room", retry_after_ms=30_000))
    desk.look(after_s=1.0)
    assert desk.look(a=wants()) == ["back a"]
    assert desk.look() == ["ask b pc2"]


def test_who_rested_has_no_turn_at_once() -> None:
    desk = Desk()
    for model in "ad":
        desk.hold(model)
    desk.look(b=wants())
    assert desk.look(a=wants(), after_s=BATCH_S) == ["back a"]
    desk.grant("b")
    assert desk.look(b=busy()) == ["ask a pc2"]
    desk.look(after_s=BATCH_S - 1)
    assert desk.loans.lent("d")
    desk.look(after_s=1.0)
    assert desk.loans.lent("d") is None


def test_refusals_before_a_loan_are_not_counted_after_it() -> None:
    desk = Desk()
    desk.look(a=wants())
    for _ in range(4):
        desk.refuse("a")
        desk.look(after_s=MOST_AGAIN_S)
    desk.grant("a")
    desk.look(a=busy())
    desk.loans.lost("a", desk.numbers["a"], "evicted", desk.now)
    assert desk.look(after_s=1.0) == ["ask a pc2"]
    desk.refuse("a")
    assert desk.look(after_s=1.0) == ["ask a pc2"]


def test_who_rests_and_is_wanted_no_more_is_forgotten() -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants())
    desk.look(after_s=BATCH_S)
    assert desk.look(a=wants()) == ["back a"]
    assert desk.look(a=None) == []
    assert len(desk.loans) == 1


def test_who_rested_is_asked_for_when_an_agent_is_free_for_it() -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants())
    desk.look(after_s=BATCH_S)
    desk.look(a=wants())
    assert desk.look(b=None, a=Need(waits=True, able=PC2)) == ["desist b"]
    assert desk.look(a=wants()) == ["ask a pc2"]


def test_at_the_end_everything_is_given_back() -> None:
    desk = Desk()
    desk.hold("a")
    desk.look(b=wants(), c=wants())
    desk.refuse("c")
    assert desk.loans.states() == {"held": 1, "asking": 1, "refused": 1}
    told = {type(step).__name__: step.model for step in desk.loans.end()}
    assert told == {"GiveBack": "a", "Desist": "b"}
    assert len(desk.loans) == 0


def test_in_one_place_for_three_models_tasks_run_in_batches_and_nobody_waits_long() -> None:
    """Tasks of 5 s keep coming for each of three models, and there is room for one model at a time."""
    desk, order, began = Desk(), list[str](), dict.fromkeys("abc", 0.0)
    until, longest, seconds = 0.0, 0.0, 2_000
    for _ in range(seconds):
        held = next((model for model in "abc" if desk.loans.lent(model)), None)
        if held is not None and until <= desk.now:
            order.append(held)
            longest = max(longest, desk.now - began[held])
            began[held], until = desk.now, desk.now + 5.0
        running = order[-1] if until > desk.now else ""
        needs = {model: busy() if model == running else wants(since=began[model]) for model in "abc"}
        desk.look(after_s=1.0, **needs)
        loans = desk.loans._loans.values()
        if not any(loan.state in (State.HELD, State.YIELDING) for loan in loans):
            desk.grant(min((loan.asked_at, loan.model) for loan in loans if loan.state is State.ASKING)[1])
    assert set(order) == set("abc")
    assert longest <= 3 * (BATCH_S + 10)
    assert sum(one != other for one, other in pairwise(order)) <= seconds / BATCH_S
    assert len(order) >= 0.9 * seconds / 5


def test_a_model_that_is_on_no_card_makes_room_for_nobody_and_is_in_nobodys_way() -> None:
    desk = Desk()
    desk.look(piper=busy(), a=busy())
    desk.look(piper=wants(running=1), a=wants(running=1))
    lent = ready("piper", "pc2", inf, card_uuid="")
    assert desk.loans.granted("piper", desk.numbers["piper"], lent, desk.now)
    desk.grant("a")
    desk.look(b=wants())
    assert desk.look(2 * BATCH_S) == []
    assert desk.loans.lent("piper") == lent
    assert desk.loans.lent("a") is None, "it has to make room"
    assert desk.look(a=wants(running=0)) == ["back a"]
    desk.look(1.0)
    assert desk.look(BATCH_S) == ["ask a pc2"], "b did not come, and its turn is over"
    assert desk.loans.lent("piper") == lent


CARD, BARE, BARE_IN_RAM = {"card_uuid": "GPU-0"}, {"card_uuid": ""}, {"card_uuid": "", "of_host": True}


@pytest.mark.parametrize(
    ("room", "goes_on"),
    [
        ({"for_card": True, "for_host": False}, {"bare", "ram"}),
        ({"for_card": False, "for_host": True}, {"card", "bare"}),
        ({"for_card": True, "for_host": True}, {"bare"}),
        ({"for_card": False, "for_host": False}, {"card", "bare", "ram"}),
    ],
)
def test_who_holds_none_of_the_room_that_is_waited_for_goes_on(room: dict[str, bool], goes_on: set[str]) -> None:
    for waits_as_task in (True, False):
        desk = Desk()
        desk.hold("card", **CARD)
        desk.hold("bare", **BARE)
        desk.hold("ram", **BARE_IN_RAM)
        if waits_as_task:
            desk.waits("new", **room)
        else:
            desk.callers = {1: Caller("new", desk.now, at="pc2", **room)}
        desk.look(BATCH_S)
        assert desk.held() == goes_on


def test_a_caller_who_waits_for_a_use_of_the_model_on_loan_has_its_turn_also_where_that_needs_no_card() -> None:
    desk = Desk()
    desk.hold("piper", **BARE)
    desk.hold("other", **BARE)
    desk.callers = {1: Caller("piper", desk.now, at="pc2", for_card=False)}
    assert desk.look(BATCH_S) == []
    assert desk.held() == {"other"}
    assert desk.look(piper=wants(running=0)) == ["back piper"]
    assert desk.look(1.0) == [], "it rests while the caller waits"
    desk.callers = {}
    assert desk.look(1.0) == ["ask piper pc2"]


def test_a_model_that_rests_makes_way_for_what_it_had_when_it_was_on_loan() -> None:
    desk = Desk()
    desk.hold("ram", **BARE_IN_RAM)
    desk.waits("new", for_card=False, for_host=True)
    desk.look(BATCH_S)
    assert desk.look(ram=wants(running=0)) == ["back ram"]
    assert desk.look(1.0) == []
    desk.loans.told("new", desk.numbers["new"], ModelProgress("queued", "pc2", 1, 0.0, None, "", for_card=True))
    assert desk.look(1.0) == ["ask ram pc2"], "a card is not what it has"
