from __future__ import annotations

from collections.abc import Callable
from math import sin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.api.gpus import Card, Stranger
from common.api.leases import Lease, Owner
from common.vram.amount import GIB, MIB
from common.vram.eviction import Resident
from common.vram.yielding import BringBack, CardLook, Instruction, Park, Yielding, YieldPolicy, look_of

TOTAL = 24 * GIB
GUARD = 256 * MIB
GAME, DESKTOP = 4711, 900
HORIZON_S = 600.0
LOOK_S = 0.5
RESIDUAL = 400 * MIB


def resident(name: str, n: int, *, idle_s: float = 900.0, in_use: bool = False, pinned: bool = False) -> Resident:
    return Resident(name, name, "", n, 50, pinned, in_use, False, idle_s, 60.0, 4 + n / GIB)


class World:
    """A card whose models go two looks after they are asked to, and are back one look after that is said."""

    def __init__(self, *residents: Resident, policy: YieldPolicy | None = None, parks: bool = True) -> None:
        self.yielding = Yielding(policy) if policy else Yielding()
        self.here = {each.lease_id: each for each in residents}
        self.all = dict(self.here)
        self.parked: set[str] = set()
        self.going: dict[str, int] = {}
        self.strangers: dict[int, int] = {}
        self.nameless = 0
        self.promised = 0
        self.problem = ""
        self.uses: dict[int, int] = {}
        self.at = 1_000.0
        self.parks = parks
        self.said: list[tuple[float, Instruction]] = []

    @property
    def held(self) -> int:
        asleep = len(self.parked) * RESIDUAL
        return sum(each.bytes for each in self.here.values()) + asleep + sum(self.strangers.values()) + self.nameless

    def seen(self) -> CardLook:
        return CardLook(
            at=self.at,
            total_bytes=TOTAL,
            free_bytes=max(0, TOTAL - self.held),
            held_bytes=self.held,
            guard_bytes=GUARD,
            promised_bytes=self.promised,
            unexplained_bytes=self.nameless,
            strangers=[Stranger(pid=pid, name="game", bytes=n) for pid, n in self.strangers.items() if n],
            residents=list(self.here.values()),
            parked=frozenset(self.parked),
            problem=self.problem,
            uses=self.uses | self.strangers,
        )

    def look(self) -> list[Instruction]:
        said = self.yielding.look(self.seen(), HORIZON_S)
        self.said += ((self.at, each) for each in said)
        for lease_id, looks in list(self.going.items()):
            self.going[lease_id] = looks - 1
            if looks == 0:
                self._gone(lease_id)
        for each in said:
            if isinstance(each, Park):
                self.going[each.resident.lease_id] = 1
            else:
                self.parked.discard(each.resident.lease_id)
                self.here[each.resident.lease_id] = each.resident
        self.at += LOOK_S
        return said

    def _gone(self, lease_id: str) -> None:
        del self.going[lease_id], self.here[lease_id]
        if self.parks:
            self.parked.add(lease_id)

    def run(self, seconds: float, stranger: Callable[[float], int] | None = None) -> list[Instruction]:
        said: list[Instruction] = []
        began = self.at
        while self.at < began + seconds:
            if stranger is not None:
                self.strangers[GAME] = stranger(self.at - began)
            said += self.look()
        return said

    def parks_said(self) -> list[str]:
        return [each.resident.lease_id for _, each in self.said if isinstance(each, Park)]

    def returns_said(self) -> list[str]:
        return [each.resident.lease_id for _, each in self.said if isinstance(each, BringBack)]


def loaded(*, parks: bool = True) -> World:
    return World(
        resident("llama", 9 * GIB, idle_s=60.0),
        resident("whisper", 3 * GIB, idle_s=4_000.0),
        resident("qwen", 6 * GIB, idle_s=2_000.0),
        resident("busy", 2 * GIB, in_use=True),
        parks=parks,
    )


@pytest.mark.parametrize("parks", [True, False])
def test_a_game_that_takes_14_gib_is_yielded_to_within_3_s_and_all_come_back_after(parks: bool) -> None:
    world = loaded(parks=parks)
    world.run(5)
    before = set(world.here)
    began = world.at
    world.run(3, lambda s: min(14, 1 + int(s / LOOK_S) * 3) * GIB)
    assert world.strangers[GAME] == 14 * GIB
    assert world.held <= TOTAL - GUARD, "within 3 s it has its memory, and the guard band is whole"
    assert world.said[0][0] - began <= 1.0
    assert world.yielding.holding == "game (pid 4711) is taking memory"
    assert "busy" in world.here
    world.run(120)
    assert "busy" not in world.parks_said()
    assert world.returns_said() == [], "while it plays nothing comes back"
    world.strangers.clear()
    world.run(10)
    assert set(world.here) == before
    assert world.yielding.away == []
    assert world.yielding.holding == ""


@pytest.mark.parametrize(("left", "cause"), [(0, "game (pid 4711) left"), (GIB, "game (pid 4711) gave memory back")])
def test_what_comes_back_says_what_became_of_the_stranger(left: int, cause: str) -> None:
    world = loaded()
    world.run(5)
    world.run(20, lambda s: 14 * GIB)
    world.run(60, lambda s: left)
    returns = [each for _, each in world.said if isinstance(each, BringBack)]
    assert returns
    assert {each.cause for each in returns} == {cause}


def test_a_game_that_takes_all_at_once_is_yielded_to_at_the_next_look() -> None:
    world = loaded()
    world.run(2)
    world.strangers[GAME] = 14 * GIB
    assert world.look()
    world.run(2)
    assert world.held <= TOTAL - GUARD


def test_only_as_much_goes_as_the_stranger_needs_and_the_cheapest_first() -> None:
    world = loaded()
    world.run(2)
    said = world.run(30, lambda s: 4 * GIB)
    assert [each.resident.lease_id for each in said] == ["qwen"]
    (first,) = said
    assert isinstance(first, Park)
    assert first.stranger.pid == GAME
    assert first.reason == "game (pid 4711), which has no lease, holds 4.0 GiB and needs room"


def test_loads_are_held_until_the_stranger_is_calm() -> None:
    world = loaded()
    world.run(2)
    world.run(5, lambda s: 5 * GIB)
    assert world.yielding.holding
    world.run(25)
    assert world.yielding.holding == ""


def test_a_stranger_that_finds_room_enough_is_left_alone() -> None:
    world = World(resident("whisper", 3 * GIB))
    assert world.run(60, lambda s: int(min(s, 15) * GIB)) == []
    assert world.yielding.holding == ""


def test_a_desktop_that_breathes_is_no_reason_to_park() -> None:
    world = World(resident("llama", 22 * GIB - GUARD))
    world.strangers[DESKTOP] = GIB
    world.strangers[GAME] = 700 * MIB
    world.run(2)
    assert world.run(60, lambda s: (700 + int(30 * sin(s))) * MIB) == []


def test_the_room_that_a_load_was_promised_is_not_the_strangers() -> None:
    world = World(resident("idle", 6 * GIB), resident("loading", 4 * GIB, in_use=True))
    world.promised = 10 * GIB
    world.run(2)
    assert world.run(2, lambda s: 2 * GIB) == []
    said = world.run(2, lambda s: 5 * GIB)
    assert [each.resident.lease_id for each in said] == ["idle"]


def test_pinned_and_busy_leases_stay_and_go_when_they_fall_idle() -> None:
    world = World(resident("busy", 12 * GIB, in_use=True), resident("pinned", 4 * GIB, pinned=True))
    world.run(2)
    assert world.run(30, lambda s: 14 * GIB) == []
    assert world.yielding.holding
    world.here["busy"] = resident("busy", 12 * GIB)
    assert [each.resident.lease_id for each in world.look()] == ["busy"]


def test_a_lease_that_would_not_go_is_asked_again() -> None:
    world = World(resident("stuck", 16 * GIB))
    world.run(2)
    world.strangers[GAME] = 14 * GIB
    for _ in range(200):
        world.look()
        world.going.clear()
    assert world.parks_said() == ["stuck", "stuck"]


def test_what_has_not_gone_yet_is_not_brought_back() -> None:
    world = World(resident("stuck", 4 * GIB), resident("busy", 10 * GIB, in_use=True))
    world.run(2)
    world.strangers[GAME] = 12 * GIB
    assert world.look()
    world.strangers.clear()
    for _ in range(100):
        world.going.clear()
        world.look()
    assert (world.parks_said(), world.returns_said()) == (["stuck"], [])


def test_an_ended_lease_that_is_there_again_is_not_brought_back() -> None:
    world = World(resident("only", 16 * GIB), parks=False)
    world.run(2)
    world.run(5, lambda s: 14 * GIB)
    assert [each.lease_id for each in world.yielding.away] == ["only"]
    world.strangers.clear()
    world.here["only"] = world.all["only"]
    assert world.look() == []
    assert world.yielding.away == []


def test_bytes_that_others_are_being_asked_for_are_waited_for() -> None:
    world = World(resident("idle", 6 * GIB))
    world.here["leaving"] = Resident("leaving", "m", "", 16 * GIB, 50, False, False, True, 9.0, 9.0, 9.0)
    world.run(2)
    assert world.run(5, lambda s: 14 * GIB) == []


def test_growth_that_nobody_accounts_for_freezes_the_card_and_parks_nothing() -> None:
    world = loaded()
    world.run(2)
    world.nameless = 3 * GIB
    assert world.look() == []
    assert world.yielding.frozen == "3.0 GiB appeared that no process and no lease accounts for"
    world.run(4)
    assert world.yielding.frozen
    world.run(10)
    assert world.yielding.frozen == ""
    assert world.said == []


def test_a_look_that_failed_decides_nothing() -> None:
    world = loaded()
    world.run(2)
    world.problem = "the card has fallen off the bus"
    assert world.run(10, lambda s: 14 * GIB) == []
    assert world.yielding.holding == ""


def test_who_was_there_before_the_first_look_is_blamed_only_where_promises_are_broken() -> None:
    calm = loaded()
    assert calm.run(30, lambda s: 3 * GIB) == []
    broken = loaded()
    said = broken.run(5, lambda s: 14 * GIB)
    assert {each.resident.lease_id for each in said} == {"llama", "qwen", "whisper"}


def test_a_process_that_loses_its_lease_has_taken_nothing_by_becoming_a_stranger() -> None:
    world = World(resident("llama", 9 * GIB), resident("qwen", 6 * GIB))
    world.uses = {GAME: 6 * GIB}
    world.run(2)
    del world.here["qwen"]
    world.promised = 9 * GIB
    assert world.run(5, lambda _: 6 * GIB) == []
    assert not world.yielding.holding
    assert world.run(2, lambda s: 6 * GIB + int(s * GIB)) != [], "what it takes from then on is growth"


def test_a_lease_that_its_owner_woke_or_ended_is_not_brought_back() -> None:
    world = loaded()
    world.run(2)
    world.run(5, lambda s: 14 * GIB)
    world.parked.remove("llama")
    world.parked.remove("qwen")
    world.here["qwen"] = world.all["qwen"]
    world.look()
    assert [each.lease_id for each in world.yielding.away] == ["whisper"]
    world.yielding.forget("whisper")
    world.yielding.forget("whisper")
    assert world.yielding.away == []


def test_a_return_that_nobody_performs_is_said_again() -> None:
    world = World(resident("only", 16 * GIB))
    world.run(2)
    world.run(5, lambda s: 14 * GIB)
    world.strangers.clear()
    for _ in range(150):
        if any(isinstance(each, BringBack) for each in world.look()):
            del world.here["only"]
            world.parked.add("only")
    assert world.returns_said() == ["only", "only"]


def test_what_is_loaded_anew_is_another_lease_and_the_ended_one_is_not_brought_back_again() -> None:
    world = World(resident("only", 16 * GIB), parks=False)
    world.run(2)
    world.run(5, lambda s: 14 * GIB)
    world.strangers.clear()
    for _ in range(150):
        if any(isinstance(each, BringBack) for each in world.look()):
            world.here["anew"] = msgspec.structs.replace(world.here.pop("only"), lease_id="anew")
    assert (world.returns_said(), world.yielding.away) == (["only"], [])


def test_what_is_on_its_way_back_has_its_room() -> None:
    world = World(resident("dear", 8 * GIB, idle_s=1.0), resident("cheap", 8 * GIB))
    world.run(2)
    world.run(5, lambda s: 22 * GIB)
    world.strangers[GAME] = 12 * GIB
    for _ in range(60):
        if any(isinstance(each, BringBack) for each in world.look()):
            del world.here["dear"]
            world.parked.add("dear")
    assert world.returns_said() == ["dear"]


def test_what_comes_back_is_told_of_once_however_much_room_there_is() -> None:
    world = World(resident("small", 4 * GIB), resident("busy", 10 * GIB, in_use=True))
    world.run(2)
    world.run(5, lambda s: 12 * GIB)
    world.strangers.clear()
    for _ in range(60):
        if any(isinstance(each, BringBack) for each in world.look()):
            del world.here["small"]
            world.parked.add("small")
    assert world.returns_said() == ["small"]


def test_of_several_strangers_the_largest_is_made_way_for() -> None:
    world = loaded()
    world.strangers |= {DESKTOP: GIB, GAME: GIB}
    world.run(2)
    world.strangers |= {DESKTOP: 5 * GIB, GAME: 6 * GIB}
    said = world.run(2)
    assert {each.stranger.pid for each in said if isinstance(each, Park)} == {GAME}


def test_a_stranger_whose_name_is_not_known_is_told_of_by_its_number() -> None:
    world = loaded()
    world.run(2)
    nameless = msgspec.structs.replace(
        world.seen(), strangers=[Stranger(pid=GAME, name="", bytes=14 * GIB)], free_bytes=0
    )
    world.yielding.look(nameless, HORIZON_S)
    assert world.yielding.holding == "a process (pid 4711) is taking memory"


def test_what_fits_comes_back_while_the_rest_waits_for_more_room() -> None:
    world = loaded()
    world.run(2)
    world.run(30, lambda s: 16 * GIB)
    assert world.returns_said() == ["whisper"]
    world.run(30, lambda s: 10 * GIB)
    assert world.returns_said() == ["whisper", "qwen"], "llama, which is dearer, does not hold up what fits"
    world.run(30, lambda s: 0)
    assert set(world.here) == set(world.all)


def test_a_return_waits_longer_after_each_that_did_not_last_and_forgets_that_in_peace() -> None:
    world = World(resident("only", 16 * GIB), policy=YieldPolicy(steady_s=300.0))
    pauses = []
    for quiet_s in (20.0, 30.0, 500.0, 20.0):
        world.run(20, lambda s: 14 * GIB)
        left_at = world.at
        world.run(quiet_s, lambda s: 0)
        pauses.append(world.said[-1][0] - left_at)
    assert pauses == pytest.approx([5, 10, 20, 5], abs=1.0)


@settings(max_examples=20, deadline=None)
@given(
    base=st.integers(0, 8),
    swing=st.integers(0, 10),
    period_s=st.floats(2, 240),
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    parks=st.booleans(),
)
def test_a_stranger_that_wobbles_makes_nothing_flap(
    base: int, swing: int, period_s: float, sizes: list[int], parks: bool
) -> None:
    fit = [size for n, size in enumerate(sizes) if sum(sizes[: n + 1]) < 24]
    residents = (resident(f"m{n}", size * GIB, idle_s=100.0 * n) for n, size in enumerate(fit))
    world = World(*residents, parks=parks, policy=YieldPolicy(longest_return_s=80.0))
    world.run(2)
    world.run(600, lambda s: int((base + swing * (1 + sin(6.2832 * s / period_s)) / 2) * GIB))
    for name in world.all:
        assert world.parks_said().count(name) <= 1 + 4 + 600 / 80, "waits of 5, 10, 20, 40 s, then 80 s each"
    world.run(200, lambda s: 0)
    assert set(world.here) == set(world.all), "all are back once it is gone"
    assert world.yielding.holding == ""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.booleans())
def test_whatever_a_stranger_does_busy_and_pinned_leases_stay(steps: list[int], parks: bool) -> None:
    world = loaded(parks=parks)
    world.here["pinned"] = world.all["pinned"] = resident("pinned", GIB, pinned=True)
    for step in steps:
        world.strangers[GAME] = step * GIB // 2
        for each in world.look():
            assert each.resident.lease_id in {"llama", "qwen", "whisper"}
    assert {"busy", "pinned"} <= set(world.here)


def test_a_look_is_made_of_what_the_lease_verbs_show() -> None:
    card = Card(
        host="h",
        card=0,
        card_uuid="GPU-a",
        name="n",
        total_bytes=TOTAL,
        free_bytes=10 * GIB,
        leased_bytes=12 * GIB,
        used_bytes=14 * GIB,
        grantable_bytes=0,
        simulated=True,
        strangers=[Stranger(pid=GAME, name="game", bytes=3 * GIB)],
        measured_bytes=10 * GIB,
        nameless_bytes=GIB,
        guard_bytes=GUARD,
        reserved_bytes=GIB,
    )
    lease = Lease(
        lease_id="a",
        model="m",
        bytes=12 * GIB,
        measured_bytes=10 * GIB,
        verified=True,
        priority=50,
        host="h",
        card=0,
        card_uuid="GPU-a",
        fencing_token=1,
        owner=Owner(),
        identity="",
        ttl_s=60,
        expires_in_s=60,
        granted_at="",
    )
    told = {name: getattr(lease, name) for name in lease.__struct_fields__}
    asleep = Lease(**told | {"lease_id": "b", "state": "parked"})
    share = Lease(**told | {"lease_id": "c", "shares": "a"})
    elsewhere = Lease(**told | {"lease_id": "d", "card_uuid": "GPU-b"})
    look = look_of(card, [lease, asleep, share, elsewhere], [resident("a", GIB)], 7.0)
    assert (look.held_bytes, look.promised_bytes, look.parked) == (14 * GIB, 5 * GIB, {"b"})
    assert (look.margin, look.unexplained_bytes, look.problem) == (5 * GIB - GUARD, GIB, "")
    assert [each.lease_id for each in look.residents] == ["a"]
    hidden = Lease(**told | {"verified": False, "measured_bytes": 0})
    unseen = look_of(card, [hidden], [], 7.0, "its memory could not be read")
    assert (unseen.promised_bytes, unseen.unexplained_bytes) == (12 * GIB, 0)
    assert unseen.problem == "its memory could not be read"
    ended = look_of(card, [lease], [], 7.0, uses={GAME: 3 * GIB}, gone={GAME})
    assert (ended.strangers, ended.held_bytes, ended.uses) == ([], 14 * GIB, {GAME: 3 * GIB})


def test_models_that_fill_the_card_to_the_guard_band_come_back_all_the_same() -> None:
    world = World(resident("a", 12 * GIB), resident("b", 12 * GIB - GUARD), parks=False)
    world.run(2)
    world.run(10, lambda s: 20 * GIB)
    assert not world.here
    world.run(10, lambda s: 0)
    assert set(world.here) == {"a", "b"}
