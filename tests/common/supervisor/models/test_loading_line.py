"""Who is loaded next, where, and for whom no more."""

from __future__ import annotations

from common.supervisor.models.instructions import Abandon, Begin, Changed, Serve
from tests.common.supervisor.models.desk import FAR, Desk, lease, model, refused, served


def test_one_load_at_a_time_on_a_card_and_others_in_their_turn() -> None:
    desk = Desk(model("a"), model("b"), model("c"))
    first, second, third = (desk.ask(name) for name in "abc")
    assert [each.name for each in desk.does() if isinstance(each, Begin)] == ["a"]
    told = desk.roster.progress(third, desk.now)
    assert (told.phase, told.position) == ("queued", 2)
    assert told.eta_s is not None
    assert "waits for the loading of a" in told.reason
    desk.load("a")
    found = desk.does()
    assert served(found) == [first]
    assert [each.name for each in found if isinstance(each, Begin)] == ["b"]
    assert desk.roster.progress(second, desk.now).position == 1


def test_two_cards_load_side_by_side() -> None:
    desk = Desk(model("a"), model("b"), cards=2)
    desk.ask("a")
    desk.ask("b")
    assert sorted((each.name, each.card_uuid) for each in desk.does() if isinstance(each, Begin)) == [
        ("a", "u0"),
        ("b", "u1"),
    ]


def test_a_model_without_a_card_is_begun_at_once_and_once() -> None:
    desk = Desk(model("cpu", 0))
    desk.ask("cpu")
    assert desk.does() == [Begin("cpu", "", False, desk.now + FAR)]
    assert desk.does() == []
    desk.load("cpu", 0)
    assert served(desk.does()) == ["t1"]


def test_nobody_who_waits_any_more_is_loaded_for() -> None:
    desk = Desk(model("a", 9), free_gib=4)
    ticket = desk.ask("a")
    assert desk.does() == []
    assert desk.state("a") == "queued"
    assert desk.roster.waiting == 1
    told = desk.roster.progress(ticket, desk.now)
    assert (told.reason, told.position, told.eta_s) == ("a waits for room: it needs 9.0 GiB", 1, None)
    desk.roster.leave(ticket)
    desk.roster.leave(ticket)
    assert desk.step() == [Changed("a", "queued")]
    assert desk.state("a") == "absent"


def test_a_lease_that_is_waited_for_is_abandoned_with_the_last_caller() -> None:
    desk = Desk(model("a"))
    ticket = desk.ask("a")
    desk.step()
    desk.roster.leave(ticket)
    assert desk.does() == [Abandon("a")]
    desk.roster.no_room("a", "", desk.now)
    desk.step()
    assert desk.state("a") == "absent"


def test_a_lease_that_was_not_to_be_had_is_tried_again_after_a_pause() -> None:
    desk = Desk(model("a"))
    ticket = desk.ask("a")
    desk.step()
    desk.roster.no_room("a", "a needs 4 GiB; others were first", desk.now)
    assert desk.does() == []
    assert desk.roster.progress(ticket, desk.now).reason == "a needs 4 GiB; others were first"
    assert desk.managed("a").problem == "a needs 4 GiB; others were first"
    other = desk.ask("a")
    desk.now += 1
    assert [type(each) for each in desk.does()] == [Begin]
    desk.load("a")
    assert served(desk.does()) == [ticket]
    assert other in desk.managed("a").waiting


def test_a_preload_takes_room_that_is_there_and_nobody_elses() -> None:
    desk = Desk(model("a", 9))
    desk.ask("a", preload=True)
    assert [type(each) for each in desk.does()] == [Begin]
    full = Desk(model("a", 9), free_gib=4)
    full.leases = [lease("old", "x", 8)]
    ticket = full.ask("a", preload=True)
    assert list(refused(full.does())) == [ticket]
    full.step()
    assert full.state("a") == "absent"


def test_a_model_on_several_cards_leaves_the_choice_to_the_ledger() -> None:
    desk = Desk(model("a", cards=2), cards=2)
    desk.ask("a")
    assert desk.does() == [Begin("a", "", False, desk.now + FAR)]


def test_a_caller_evicts_and_stands_in_line_with_the_models_priority_shifted_by_its_own_word() -> None:
    desk = Desk(model("plain"), model("dear", priority=80), model("cheap", priority=20), free_gib=0)
    desk.leases = [lease("l0", "other", 12, priority=60)]
    desk.ask("plain")
    desk.ask("cheap", priority=70)
    assert desk.does() == [], "a lease of priority 60 goes for neither 50 nor 40"
    desk.ask("dear")
    (begin,) = desk.does()
    assert isinstance(begin, Begin)
    assert begin.name == "dear"
    begun = desk.managed("dear").begun
    assert begun is not None
    assert (begun.priority, begun.evicts) == (80, True)


def test_a_load_whose_lease_waits_is_asked_for_anew_for_somebody_more_urgent() -> None:
    desk = Desk(model("a"))
    desk.ask("a", priority=10)
    (begin,) = desk.does()
    assert isinstance(begin, Begin)
    desk.ask("a", priority=5)
    assert desk.does() == [], "nobody asks more urgently"
    desk.ask("a", priority=90)
    assert desk.does() == [Abandon("a")]
    desk.roster.no_room("a", "", desk.now)
    assert desk.does() == []
    desk.now += 1.0
    (again,) = desk.does()
    assert isinstance(again, Begin)
    begun = desk.managed("a").begun
    assert begun is not None
    assert begun.priority == 90
    desk.load("a")
    desk.ask("a", priority=100)
    assert [type(each) for each in desk.does()] == [Serve], "what is loaded is not begun anew"
