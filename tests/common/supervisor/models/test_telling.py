"""What those who wait are told, and why a model is not to be had."""

from __future__ import annotations

import pytest

from common.config.models import Needs
from common.config.units import Duration, Size
from common.errors import NoCapacity, Unavailable
from common.supervisor.models.instructions import Begin
from common.supervisor.models.managed import Held
from common.supervisor.models.roster import GIVE_UP
from tests.common.supervisor.models.desk import GIB, Desk, lease, model, refused


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("queued", "it waits for its turn"),
        ("loading", "it is being loaded"),
        ("expiring", "it is being put away"),
        ("parked", "parked in host RAM"),
    ],
)
def test_a_refusal_says_what_the_model_is_doing(state: str, why: str) -> None:
    desk = Desk(model("a"))
    desk.ask("a")
    desk.step()
    if state != "queued":
        desk.grant("a")
    if state in ("expiring", "parked"):
        desk.roster.leaving("a", desk.now)
    if state == "parked":
        desk.roster.leave("t1")
        desk.roster.asleep("a", Held(lease_id="l-a", card_uuids=("u0",), bytes=GIB), desk.now)
    with pytest.raises(NoCapacity, match=why):
        desk.ask("a", 0.0)


def test_a_model_that_needs_others_gone_says_that_room_is_made() -> None:
    desk = Desk(model("a", 9), free_gib=4)
    desk.leases = [lease("old", "x", 8), lease("share", "x", 0, shares="old"), lease("away", "y", 1, card_uuids=["u9"])]
    ticket = desk.ask("a")
    assert [type(each) for each in desk.does()] == [Begin]
    assert desk.roster.progress(ticket, desk.now).phase == "evicting"


def test_what_is_known_of_the_wait_is_told_and_nothing_where_it_is_not() -> None:
    desk = Desk(model("a", load_s=Duration(20.0)), model("cpu", 0))
    ticket, other = desk.ask("a"), desk.ask("cpu")
    assert desk.roster.progress(ticket, desk.now).reason == "a waits for room: it needs 4.0 GiB"
    assert {each.name: each.card_uuid for each in desk.does() if isinstance(each, Begin)} == {"cpu": "", "a": "u0"}
    told = desk.roster.progress(ticket, desk.now + 5)
    assert (told.eta_s, told.waited_s, told.reason) == (15.0, 5.0, "a is next to be loaded")
    desk.roster.hears("a", "others wait before it")
    assert desk.roster.progress(ticket, desk.now).reason == "others wait before it"
    assert desk.roster.progress(other, desk.now).eta_s is None
    desk.grant("a")
    told = desk.roster.progress(ticket, desk.now + 5)
    assert (told.phase, told.eta_s, told.reason) == ("loading", 15.0, "a is being loaded since 5.0 s")
    assert desk.roster.progress(ticket, desk.now + 50).eta_s is None


def test_an_unknown_load_time_leaves_the_retry_without_an_estimate() -> None:
    desk = Desk(model("cpu", 0))
    ticket = desk.ask("cpu")
    desk.step()
    desk.grant("cpu", 0)
    desk.roster.failed("cpu", "no", desk.now)
    assert desk.roster.progress(ticket, desk.now).eta_s is None


def test_who_asks_for_an_engine_that_runs_already_is_told_where_it_should_answer() -> None:
    desk = Desk(model("a", command=[], url="http://127.0.0.1:11434", engine="ollama"))
    for _ in range(GIVE_UP):
        desk.ask("a")
        desk.step()
        desk.grant("a")
        desk.roster.failed("a", "ollama is not to be seen", desk.now)
        desk.now += 60 if _ < GIVE_UP - 1 else 0
    with pytest.raises(Unavailable) as caught:
        desk.ask("a")
    assert caught.value.details["mend"] == "see that its engine answers at http://127.0.0.1:11434"


def test_an_engine_of_others_that_is_not_there_is_said_to_be_away_and_nobody_goes_for_it() -> None:
    desk = Desk(model("a", command=[], url="http://127.0.0.1:9"), free_gib=0)
    desk.leases = [lease("l0", "other", 12)]
    ticket = desk.ask("a")
    (begin,) = desk.does()
    assert isinstance(begin, Begin)
    assert desk.roster.progress(ticket, desk.now).phase == "evicting"
    desk.roster.is_away("a", "ollama is not running")
    told = desk.roster.progress(ticket, desk.now)
    assert (told.phase, told.reason) == ("queued", "a cannot be loaded: ollama is not running")
    assert desk.managed("a").problem == "ollama is not running"
    with pytest.raises(Unavailable, match="a cannot be loaded on h: ollama is not running"):
        desk.ask("a")
    desk.roster.is_away("a", "")
    desk.ask("a")
    desk.load("a")
    desk.roster.is_away("a", "ollama is not running")
    desk.ask("a")
    assert desk.managed("a").problem == "", "what is loaded goes with its process, and by no look"


def test_who_waits_is_told_that_the_host_is_short_and_not_that_room_is_made_on_a_card() -> None:
    desk = Desk(model("a"), free_gib=0)
    desk.leases = [lease("l0", "other", 12)]
    ticket = desk.ask("a", wait_s=30)
    desk.does()
    assert desk.roster.progress(ticket, desk.now).phase == "evicting"
    desk.roster.short_of_host("a", "8 GiB of host RAM needed")
    told = desk.roster.progress(ticket, desk.now)
    assert (told.phase, told.reason, told.for_card, told.for_host) == ("queued", "8 GiB of host RAM needed", True, True)
    assert desk.managed("a").problem == "8 GiB of host RAM needed"
    desk.now += 31
    assert "8 GiB of host RAM needed" in refused(desk.step())[ticket].message


def test_what_kind_of_room_a_model_waits_for_is_told() -> None:
    needs = Needs(ram=Size(GIB))
    desk = Desk(model("card", needs=needs), model("bare", 0), model("ram", 0, needs=needs, slots=1))
    tickets = {name: desk.ask(name) for name in ("card", "bare", "ram")}
    told = {name: desk.roster.progress(ticket, desk.now) for name, ticket in tickets.items()}
    assert {name: (each.for_card, each.for_host) for name, each in told.items()} == {
        "card": (True, False), "bare": (False, False), "ram": (False, True),
    }  # fmt: skip
    desk.does()
    desk.load("ram")
    desk.does()
    desk.roster.used("ram", "share")
    waits = desk.roster.progress(desk.ask("ram"), desk.now)
    assert (waits.reason, waits.for_card, waits.for_host) == ("all 1 slots of ram are in use", False, False)
