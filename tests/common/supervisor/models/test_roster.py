from __future__ import annotations

import pytest

from common.errors import BadRequest, NoCapacity, NotFound, Unavailable
from common.supervisor.models.instructions import Begin, Changed, Serve
from common.supervisor.models.managed import Held, Serving
from common.supervisor.models.roster import ATTEMPTS, GIVE_UP
from tests.common.supervisor.models.desk import FAR, GIB, Desk, model, refused, served


def test_a_model_is_loaded_for_the_first_who_asks_and_its_state_is_told() -> None:
    desk = Desk(model("a"))
    desk.ask("a")
    begun = desk.step()
    assert begun == [Changed("a", "absent"), Begin("a", "u0", False, desk.now + FAR)]
    desk.grant("a")
    assert desk.step() == [Changed("a", "queued")]
    assert desk.state("a") == "loading"
    desk.roster.loaded("a", Serving(url="u", upstream="a", pid=1, start_time=1), 3.0, desk.now)
    told = desk.step()
    assert told[0] == Changed("a", "loading")
    assert served(told) == ["t1"]
    assert desk.managed("a").load_s == 3.0
    assert desk.step() == []


def test_an_unknown_model_is_told_with_a_close_match() -> None:
    desk = Desk(model("llama", aliases=["chat"]))
    with pytest.raises(NotFound, match="h has no model 'lama'; did you mean llama") as caught:
        desk.ask("lama")
    assert caught.value.details == {"close": ["llama"]}
    with pytest.raises(NotFound, match=r"h has no model 'zzz'$"):
        desk.ask("zzz")
    assert desk.roster.find("chat") is desk.roster.find("llama")


def test_what_a_model_does_not_serve_is_refused_at_once() -> None:
    desk = Desk(model("a", capabilities=["embeddings"]))
    with pytest.raises(BadRequest, match="a serves embeddings, not chat"):
        desk.ask("a", capability="chat")
    desk.ask("a", capability="embeddings")


def test_a_model_whose_files_are_missing_says_which() -> None:
    desk = Desk(model("a"))
    desk.roster.lacks("a", ["/m.gguf"])
    with pytest.raises(Unavailable, match=r"not on this host: /m\.gguf"):
        desk.ask("a")
    assert desk.managed("a").shown("h", desk.footprints, desk.now).problem == "not on this host: /m.gguf"
    desk.roster.lacks("a", [])
    desk.ask("a")


def test_without_time_to_wait_only_a_ready_model_with_a_free_slot_is_had() -> None:
    desk = Desk(model("a"))
    with pytest.raises(NoCapacity, match="a on h: it is not loaded") as caught:
        desk.ask("a", 0.0)
    assert caught.value.retry_after_ms is not None
    assert served(desk.loaded("a")) == ["t2"]
    desk.ask("a", 0.0)
    assert served(desk.does()) == ["t3"]
    desk.roster.used("a", "s1")
    with pytest.raises(NoCapacity, match="all 1 slots of it are in use"):
        desk.ask("a", 0.0)


def test_who_asks_for_a_model_that_is_loading_joins_it_and_all_are_served_by_priority() -> None:
    desk = Desk(model("a", slots=3))
    desk.ask("a")
    assert [type(each) for each in desk.does()] == [Begin]
    desk.now += 1
    desk.ask("a")
    desk.grant("a")
    desk.ask("a", priority=90)
    assert desk.does() == []
    desk.roster.loaded("a", Serving(url="u", upstream="a", pid=1, start_time=1), 3.0, desk.now)
    assert served(desk.does()) == ["t3", "t1", "t2"]


def test_one_who_comes_when_all_slots_are_taken_waits_for_one() -> None:
    desk = Desk(model("a"))
    desk.loaded("a")
    desk.roster.used("a", "s1")
    ticket = desk.ask("a", 30.0)
    other = desk.ask("a", 30.0)
    assert desk.does() == []
    told = desk.roster.progress(other, desk.now)
    assert (told.phase, told.position, told.eta_s, told.reason) == ("queued", 2, None, "all 1 slots of a are in use")
    desk.roster.unused("s1", desk.now)
    assert served(desk.does()) == [ticket]
    desk.roster.used("a", "s2")
    desk.now += 31
    late = refused(desk.does())
    assert list(late) == [other]
    assert "all 1 slots" in late[other].message
    desk.roster.unused("s9", desk.now)


def test_a_load_that_goes_on_goes_on_without_callers() -> None:
    desk = Desk(model("a"))
    ticket = desk.ask("a")
    desk.step()
    desk.grant("a")
    desk.roster.leave(ticket)
    assert desk.does() == []
    assert desk.state("a") == "loading"


def test_a_deadline_that_passes_is_refused_with_the_reason() -> None:
    desk = Desk(model("a", 9), free_gib=4)
    ticket = desk.ask("a", 10.0)
    assert desk.does() == []
    desk.now += 10
    found = refused(desk.does())
    assert isinstance(found[ticket], NoCapacity)


def test_a_load_that_fails_is_tried_again_and_then_those_who_waited_are_told_why() -> None:
    desk = Desk(model("a"))
    ticket = desk.ask("a")
    for attempt in range(1, ATTEMPTS + 1):
        assert [type(each) for each in desk.does()] == [Begin]
        desk.grant("a")
        found = refused(desk.roster.failed("a", "CUDA out of memory", desk.now))
        if attempt < ATTEMPTS:
            assert found == {}
            assert desk.does() == []
            told = desk.roster.progress(ticket, desk.now)
            assert told.reason == "tried again soon; CUDA out of memory"
            assert told.eta_s is not None
        desk.now += 10
    assert "a does not load on h: CUDA out of memory" in found[ticket].message
    assert desk.state("a") == "failed"


def test_a_model_that_keeps_failing_is_refused_at_once_until_its_pause_is_over() -> None:
    desk = Desk(model("a"))
    for _ in range(GIVE_UP):
        desk.ask("a")
        desk.step()
        desk.grant("a")
        desk.roster.failed("a", "bad file", desk.now)
        desk.now += 60 if _ < GIVE_UP - 1 else 0
    with pytest.raises(Unavailable, match="a does not load on h: bad file") as caught:
        desk.ask("a")
    assert caught.value.details["failures"] == GIVE_UP
    assert caught.value.details["mend"] == "`tandem logs a` has what its engine wrote"
    desk.now += 60
    desk.ask("a")
    assert [type(each) for each in desk.does()] == [Begin]


def test_in_the_pause_after_a_failure_nobody_without_time_is_served() -> None:
    desk = Desk(model("a"))
    desk.ask("a")
    desk.step()
    desk.grant("a")
    desk.roster.failed("a", "bad file", desk.now)
    with pytest.raises(Unavailable, match="bad file"):
        desk.ask("a", 0.0)


def test_a_model_that_expires_takes_nobody_and_is_loaded_anew_for_who_comes() -> None:
    desk = Desk(model("a"))
    desk.loaded("a")
    desk.roster.leaving("a", desk.now)
    ticket = desk.ask("a")
    assert desk.does() == []
    assert desk.roster.progress(ticket, desk.now).reason == "a is being put away, and is loaded anew then"
    desk.roster.leaving("a", desk.now)
    desk.roster.ended("a", desk.now)
    assert desk.state("a") == "absent"
    assert desk.managed("a").held is None
    assert desk.does() == [Begin("a", "u0", False, desk.now + FAR)]


def test_a_sleeper_is_woken_on_its_card_with_the_rest_of_its_bytes() -> None:
    desk = Desk(model("a", 4), free_gib=3.5)
    desk.free = [12.0]
    desk.loaded("a")
    desk.roster.leaving("a", desk.now)
    desk.roster.asleep("a", Held(lease_id="l-a", card_uuids=("u0",), bytes=GIB), desk.now)
    assert desk.state("a") == "parked"
    desk.free = [3.5]
    ticket = desk.ask("a")
    assert desk.does() == [Begin("a", "u0", True, desk.now + FAR)]
    desk.grant("a")
    told = desk.roster.progress(ticket, desk.now + 1)
    assert told.reason == "a is woken since 1.0 s"
    desk.roster.loaded("a", Serving(url="u", upstream="a", pid=1, start_time=1), 3.0, desk.now)
    assert served(desk.does()) == [ticket]
    assert not desk.managed("a").sleeps


def test_a_wake_that_fails_half_way_becomes_a_load_from_nothing() -> None:
    desk = Desk(model("a"))
    desk.loaded("a")
    desk.roster.leaving("a", desk.now)
    desk.roster.asleep("a", Held(lease_id="l-a", card_uuids=("u0",), bytes=GIB), desk.now)
    desk.ask("a")
    desk.step()
    desk.grant("a")
    desk.roster.again("a", desk.now)
    assert desk.does() == [Begin("a", "u0", False, desk.now + FAR)]
    desk.roster.again("a", desk.now)
    assert desk.state("a") == "queued"


def test_a_sleeper_nobody_wants_any_more_sleeps_on() -> None:
    desk = Desk(model("a"), free_gib=12)
    desk.loaded("a")
    desk.roster.leaving("a", desk.now)
    desk.roster.asleep("a", Held(lease_id="l-a", card_uuids=("u0",), bytes=GIB), desk.now)
    desk.free = [0.1]
    ticket = desk.ask("a")
    assert desk.does() == []
    desk.roster.leave(ticket)
    desk.step()
    assert desk.state("a") == "parked"
    desk.roster.ended("a", desk.now)
    assert desk.state("a") == "absent"
    desk.roster.ended("a", desk.now)


def test_a_sleeper_that_is_gone_before_it_could_be_woken_is_loaded_from_nothing() -> None:
    desk = Desk(model("a"))
    desk.loaded("a")
    desk.roster.leaving("a", desk.now)
    desk.roster.asleep("a", Held(lease_id="l-a", card_uuids=("u0",), bytes=GIB), desk.now)
    desk.ask("a")
    desk.step()
    desk.roster.ended("a", desk.now)
    assert desk.does() == [Begin("a", "u0", False, desk.now + FAR)]


def test_an_engine_that_dies_while_used_is_loaded_again_for_whoever_waits() -> None:
    desk = Desk(model("a"))
    desk.loaded("a")
    desk.roster.used("a", "s1")
    ticket = desk.ask("a")
    assert desk.roster.died("a", "killed by signal 9", desk.now) == []
    assert (desk.state("a"), desk.managed("a").problem) == ("failed", "killed by signal 9")
    assert not any(managed.users for managed in desk.roster)
    desk.now += 5
    assert [type(each) for each in desk.does()] == [Begin]
    desk.load("a")
    assert served(desk.does()) == [ticket]


def test_an_engine_that_dies_on_its_way_out_is_simply_gone() -> None:
    desk = Desk(model("a"))
    desk.loaded("a")
    desk.roster.leaving("a", desk.now)
    assert desk.roster.died("a", "exit 0", desk.now) == []
    assert (desk.state("a"), desk.managed("a").problem) == ("absent", "")


def test_a_share_that_could_not_be_given_is_waited_for_again() -> None:
    desk = Desk(model("a"))
    (serve,) = desk.loaded("a")
    assert isinstance(serve, Serve)
    desk.roster.unserved(serve.asked, desk.now)
    assert served(desk.does()) == ["t1"]


def test_a_preload_that_fails_is_not_tried_again() -> None:
    desk = Desk(model("a"))
    ticket = desk.ask("a", preload=True)
    desk.step()
    desk.grant("a")
    assert list(refused(desk.roster.failed("a", "no", desk.now))) == [ticket]


def test_a_model_that_leaves_while_nothing_of_it_is_there_stays_absent() -> None:
    desk = Desk(model("a"))
    desk.roster.leaving("a", desk.now)
    assert desk.state("a") == "absent"
