from __future__ import annotations

from typing import Any

import pytest

from common.api.leases import Lease, Owner
from common.config.models import Model, Needs
from common.config.units import Duration, Size
from common.errors import BadRequest, NoCapacity, NotFound, TandemError, Unavailable
from common.supervisor.models.cards_seen import residency
from common.supervisor.models.instructions import Abandon, Begin, Changed, Instruction, Refuse, Serve
from common.supervisor.models.managed import DISABLED, Asked, Held, Managed, Serving
from common.supervisor.models.roster import ATTEMPTS, GIVE_UP, Roster
from common.vram.demand import Demand, Horizon
from common.vram.footprint import Footprints
from common.vram.placement import Candidate

GIB = 2**30
FAR = 1_000_000.0


def model(name: str, gib: float = 4, **fields: Any) -> Model:
    fields = {"command": ["server", "{port}"], "slots": 1, **fields}
    return Model(name, fields.pop("engine", "llama-server"), Size(int(gib * GIB)), **fields)


def lease(lease_id: str, name: str, gib: float, **fields: Any) -> Lease:
    told: dict[str, Any] = {
        "lease_id": lease_id, "model": name, "bytes": int(gib * GIB), "measured_bytes": 0, "verified": True,
        "priority": 50, "host": "h", "card": 0, "card_uuid": "u0", "fencing_token": 1, "owner": Owner(),
        "identity": "", "ttl_s": 60.0, "expires_in_s": 60.0, "granted_at": "", "card_uuids": ["u0"], "in_use": False,
        "load_s": 3.0,
    }  # fmt: skip
    return Lease(**told | fields)


class Desk:
    """A roster, its cards and a clock; what it wants done is gathered."""

    def __init__(self, *models: Model, cards: int = 1, free_gib: float = 12, host: str = "h") -> None:
        self.now = 100.0
        self.free = [free_gib] * cards
        self.footprints = Footprints(host)
        self.roster = Roster(host, models, self.footprints, self.now)
        self.leases: list[Lease] = []
        self.tickets = 0

    def ask(self, name: str, wait_s: float = FAR, capability: str = "", **fields: Any) -> str:
        self.tickets += 1
        ticket = f"t{self.tickets}"
        asked = Asked(
            **{
                "ticket": ticket, "model": name, "priority": 50, "asked_at": self.now, "deadline": self.now + wait_s,
                **fields,
            }
        )  # fmt: skip
        self.roster.ask(asked, capability, self.now)
        return ticket

    def step(self) -> list[Instruction]:
        candidates = [
            Candidate("h", index, f"u{index}", int(free * GIB), 12 * GIB) for index, free in enumerate(self.free)
        ]
        loading = {m.begun.card_uuid: m.begun.until or self.now for m in self.roster if m.begun}
        return self.roster.step(residency(candidates, self.leases, loading, Demand(), Horizon()), self.now)

    def does(self) -> list[Instruction]:
        return [each for each in self.step() if not isinstance(each, Changed)]

    def grant(self, name: str, gib: float = 4) -> None:
        self.roster.granted(name, Held(lease_id=f"l-{name}", card_uuids=("u0",), bytes=int(gib * GIB)), self.now)

    def load(self, name: str, gib: float = 4) -> None:
        self.grant(name, gib)
        self.roster.loaded(name, Serving(url="http://e", upstream=name, pid=1, start_time=2), 3.0, self.now)

    def loaded(self, name: str) -> list[Instruction]:
        """The model loaded for one who asks, from the beginning."""
        self.ask(name)
        (begin,) = self.does()
        assert isinstance(begin, Begin)
        self.load(name)
        return self.does()

    def state(self, name: str) -> str:
        return self.roster.find(name).life.state

    def managed(self, name: str) -> Managed:
        return self.roster.find(name)


def served(instructions: list[Instruction]) -> list[str]:
    return [each.asked.ticket for each in instructions if isinstance(each, Serve)]


def refused(instructions: list[Any]) -> dict[str, TandemError]:
    return {each.asked.ticket: each.error for each in instructions if isinstance(each, Refuse)}


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


def test_what_is_told_of_an_engine_after_a_reload_took_its_entry_away_is_about_nobody() -> None:
    desk = Desk(model("a"))
    desk.roster.is_away("gone", "gone is not running")
    assert [each.model.name for each in desk.roster] == ["a"]
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


def test_learned_seconds_and_bytes_go_before_what_was_declared() -> None:
    desk = Desk(model("a", load_s=Duration(20.0)))
    managed = desk.managed("a")
    assert managed.seconds(desk.footprints) == (20.0, True)
    desk.footprints.loaded(managed.key, "cold", 5.0, 4 * GIB)
    assert managed.seconds(desk.footprints) == (5.0, True)
    for _ in range(40):
        desk.footprints.looked(managed.key, 6 * GIB, 60.0)
    assert managed.need_bytes(desk.footprints) > 6 * GIB
    desk.loaded("a")
    assert managed.tier == "cached"


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


def test_an_unknown_load_time_leaves_the_retry_without_an_estimate() -> None:
    desk = Desk(model("cpu", 0))
    ticket = desk.ask("cpu")
    desk.step()
    desk.grant("cpu", 0)
    desk.roster.failed("cpu", "no", desk.now)
    assert desk.roster.progress(ticket, desk.now).eta_s is None


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


def test_a_preload_that_fails_is_not_tried_again() -> None:
    desk = Desk(model("a"))
    ticket = desk.ask("a", preload=True)
    desk.step()
    desk.grant("a")
    assert list(refused(desk.roster.failed("a", "no", desk.now))) == [ticket]


def test_a_model_that_was_found_loaded_is_ready_without_a_load() -> None:
    desk = Desk(model("a", command=[], url="http://127.0.0.1:11434"))
    held = Held(lease_id="l-a", card_uuids=("u0",), bytes=GIB)
    serving = Serving(url="http://127.0.0.1:11434", upstream="a:latest", pid=7, start_time=8)
    desk.roster.found("a", held, serving, desk.now)
    shown = desk.managed("a").shown("h", desk.footprints, desk.now + 9)
    assert (shown.state, shown.upstream, shown.pid, shown.idle_s, shown.adopted) == ("ready", "a:latest", 7, 9.0, True)
    assert desk.roster.of_lease("l-a") is desk.managed("a")
    assert desk.roster.of_lease("l-b") is None


def test_a_reload_takes_in_new_models_and_touches_nothing_that_runs() -> None:
    desk = Desk(model("a"), model("b"), model("c"))
    desk.loaded("a")
    kept = desk.managed("a").model
    desk.roster.reload([model("b", 5), model("d"), model("e", enabled=False)], desk.now)
    assert [each.model.name for each in desk.roster] == ["a", "b", "d"]
    assert len(desk.roster) == 3
    assert desk.managed("a").model is kept
    assert desk.managed("b").model.vram == 5 * GIB
    desk.roster.reload([model("a", 6, aliases=["new"]), model("d")], desk.now)
    assert desk.managed("a").model is kept
    desk.roster.leaving("a", desk.now)
    desk.roster.ended("a", desk.now)
    assert desk.managed("new").model.vram == 6 * GIB


def test_a_model_that_the_file_names_no_more_goes_with_its_engine_or_the_last_who_waits() -> None:
    desk = Desk(model("a"), model("b"))
    desk.loaded("a")
    desk.ask("b")
    desk.step()
    desk.grant("b")
    desk.roster.failed("b", "no", desk.now)
    desk.roster.reload([], desk.now)
    assert [each.model.name for each in desk.roster] == ["a", "b"]
    desk.roster.leaving("a", desk.now)
    desk.roster.ended("a", desk.now)
    assert Changed("a", "expiring") not in desk.step()
    with pytest.raises(NotFound):
        desk.ask("a")


def test_a_model_on_several_cards_leaves_the_choice_to_the_ledger() -> None:
    desk = Desk(model("a", cards=2), cards=2)
    desk.ask("a")
    assert desk.does() == [Begin("a", "", False, desk.now + FAR)]


def test_a_model_that_leaves_while_nothing_of_it_is_there_stays_absent() -> None:
    desk = Desk(model("a"))
    desk.roster.leaving("a", desk.now)
    assert desk.state("a") == "absent"


def test_the_cards_are_seen_as_the_ledger_shows_them() -> None:
    card = Candidate("h", 0, "u0", 4 * GIB, 12 * GIB)
    seen = residency([card], [lease("old", "x", 8, state="parked")], {"u0": 105.0, "gone": 1.0}, Demand(), Horizon())
    assert seen.loaders(100.0) == [5.0]
    ((uuid, tenant),) = seen.homes(tenant_key := ("x", ""))  # type: ignore[arg-type]
    assert (uuid, tenant.expiring, tenant.key) == ("u0", True, tenant_key)


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


def test_a_disabled_entry_is_told_of_as_such_unless_its_engine_still_runs() -> None:
    desk = Desk(model("a"), model("b", enabled=False))
    desk.loaded("a")
    assert [each.name for each in desk.roster.disabled] == ["b"]
    desk.roster.reload([model("a", enabled=False), model("b", enabled=False)], desk.now)
    assert [each.name for each in desk.roster.disabled] == ["b"]
    assert Managed(model("b", enabled=False), desk.now).problem == DISABLED
    desk.roster.unused("nobody's", desk.now)
    desk.roster.leaving("a", desk.now)
    desk.roster.ended("a", desk.now)
    assert [each.name for each in desk.roster.disabled] == ["a", "b"]
    with pytest.raises(NotFound, match="a is disabled on h"):
        desk.ask("a")


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
