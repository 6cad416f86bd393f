from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.vram.amount import GIB
from common.vram.cards import ProcessId
from common.vram.resource_tier import ResourcePolicy
from common.vram.resources import HostAccount

RAM, DISK = 64 * GIB, 1_000 * GIB


def account(**held: int) -> HostAccount:
    made = HostAccount(RAM, DISK, 16.0)
    look(made, **held)
    return made


def look(of: HostAccount, available: int = RAM, disk: int = DISK, **held: int) -> None:
    of.measure(
        ram_total_bytes=RAM,
        ram_available_bytes=available,
        disk_total_bytes=DISK,
        disk_available_bytes=disk,
        held_ram=held,
    )


def test_an_empty_host_leases_four_fifths_of_what_it_has() -> None:
    host = account()
    assert host.fits(ram=int(0.8 * RAM), disk=int(0.8 * DISK), cpu=12.8) == ""
    assert host.fits(ram=int(0.8 * RAM) + 1)
    assert host.fits(disk=int(0.8 * DISK) + 1)
    assert host.fits(cpu=12.801)


def test_who_wants_nothing_beside_the_card_is_never_refused() -> None:
    host = HostAccount()
    host.unmeasured("no /proc")
    assert host.fits() == ""


def test_ram_that_others_took_since_the_last_look_is_not_granted() -> None:
    host = HostAccount()
    host.ram_now(30 * GIB)
    assert host.fits(ram=1).endswith("has not been measured yet")
    host = account()
    host.put("lease-1", ram=10 * GIB, model="qwen")
    look(host, RAM - 10 * GIB, **{"lease-1": 10 * GIB})
    assert host.fits(ram=30 * GIB) == ""
    host.ram_now(RAM - 40 * GIB)
    short = host.shortage(ram=30 * GIB)
    assert short is not None
    assert (short.others, short.never) == (30 * GIB, False)
    assert short.free == RAM - int(0.05 * RAM) - 40 * GIB
    host.ram_now(RAM - 10 * GIB)
    assert host.fits(ram=30 * GIB) == ""


def test_a_refusal_says_need_free_ceiling_and_who_holds_the_rest() -> None:
    host = account()
    host.put("lease-1", ram=30 * GIB, model="qwen")
    host.put("lease-2", ram=10 * GIB, model="whisper")
    short = host.shortage(ram=20 * GIB)
    assert short is not None
    assert (short.resource, short.need, short.free) == ("host RAM", 20 * GIB, int(0.8 * RAM) - 40 * GIB)
    assert [(holder.lease_id, holder.amount) for holder in short.holders] == [
        ("lease-1", 30 * GIB),
        ("lease-2", 10 * GIB),
    ]
    assert not short.never
    assert short.reason == (
        "20.0 GiB of host RAM needed; 11.2 GiB free; 51.2 GiB of 64.0 GiB may be leased; "
        "leased: qwen 30.0 GiB, whisper 10.0 GiB"
    )


def test_of_many_holders_the_largest_are_named() -> None:
    host = account()
    for n in range(6):
        host.put(f"lease-{n}", cpu=n / 2 + 0.5)
    assert host.fits(cpu=3.0).endswith(
        "leased: lease-5 3 cores, lease-4 2.5 cores, lease-3 2 cores, lease-2 1.5 cores and 2 more"
    )


def test_what_an_empty_host_could_not_give_is_said_to_never_fit() -> None:
    short = account().shortage(ram=60 * GIB)
    assert short is not None
    assert short.never
    assert short.reason == "60.0 GiB of host RAM needed; 51.2 GiB of 64.0 GiB may be leased"


def test_a_stranger_that_fills_the_memory_lowers_what_may_be_leased() -> None:
    host = account()
    look(host, available=10 * GIB)
    assert "used by others: 54.0 GiB" in host.fits(ram=10 * GIB)
    assert host.fits(ram=6 * GIB) == ""
    look(host, available=60 * GIB)
    assert host.fits(ram=50 * GIB) == ""


def test_memory_that_is_promised_and_not_yet_taken_is_kept() -> None:
    host = account()
    look(host, available=40 * GIB)
    host.put("a", ram=20 * GIB)
    look(host, available=40 * GIB, a=0)
    assert host.fits(ram=17 * GIB)
    assert host.fits(ram=16 * GIB) == ""


def test_memory_that_a_lease_has_taken_is_not_counted_twice() -> None:
    host = account()
    look(host, available=40 * GIB)
    host.put("a", ram=20 * GIB)
    look(host, available=20 * GIB, a=20 * GIB)
    assert host.fits(ram=16 * GIB) == ""


def test_disk_that_fell_by_what_was_promised_is_taken_for_the_leases() -> None:
    host = account()
    host.put("a", disk=500 * GIB)
    look(host, disk=600 * GIB)
    assert host.fits(disk=300 * GIB) == ""
    look(host, disk=450 * GIB)
    assert host.fits(disk=300 * GIB) == ""
    assert host.view("pc2").disk_grantable_bytes == 300 * GIB
    look(host, disk=250 * GIB)
    assert host.view("pc2").disk_grantable_bytes == 200 * GIB


def test_a_lease_that_takes_more_than_it_leased_counts_at_what_it_takes() -> None:
    host = account()
    host.put("a", ram=10 * GIB)
    look(host, available=RAM - 20 * GIB, a=20 * GIB)
    assert host.view("pc2").ram_grantable_bytes == int(0.8 * RAM) - 20 * GIB
    for leased in (20, 15):
        host.put("a", ram=leased * GIB)
        assert host.view("pc2").ram_grantable_bytes == int(0.8 * RAM) - 20 * GIB


def test_an_ended_lease_counts_until_its_memory_is_seen_to_be_gone() -> None:
    host = account()
    look(host, available=RAM - 10 * GIB)
    host.put("a", ram=30 * GIB)
    look(host, available=RAM - 40 * GIB, a=30 * GIB)
    host.drop("a")
    assert host.view("pc2").ram_others_bytes == 40 * GIB
    assert host.view("pc2").ram_grantable_bytes == RAM - int(0.05 * RAM) - 40 * GIB
    look(host, available=RAM - 40 * GIB)
    assert host.view("pc2").ram_grantable_bytes == RAM - int(0.05 * RAM) - 40 * GIB
    look(host, available=RAM - 10 * GIB)
    assert host.view("pc2").ram_grantable_bytes == RAM - int(0.05 * RAM) - 10 * GIB


def test_a_lease_that_took_nothing_leaves_nothing_behind() -> None:
    host = account()
    host.put("a", ram=30 * GIB, disk=100 * GIB)
    look(host)
    host.drop("a")
    host.drop("a")
    assert host.fits(ram=51 * GIB, disk=800 * GIB) == ""
    assert host.view("pc2").ram_leased_bytes == 0


def test_a_host_that_cannot_be_measured_gives_neither_memory_nor_disk() -> None:
    fresh = HostAccount(RAM, DISK, 16.0)
    assert fresh.fits(ram=GIB) == "1.0 GiB of host RAM needed, which has not been measured yet"
    assert fresh.fits(disk=GIB) == "1.0 GiB of disk needed, which has not been measured yet"
    host = account()
    host.unmeasured("psutil failed")
    short = host.shortage(ram=GIB)
    assert short is not None
    assert short.free == 0
    assert not short.never
    assert short.reason == "1.0 GiB of host RAM needed, which could not be measured: psutil failed"
    assert host.fits(disk=GIB)
    assert host.fits(cpu=1.0) == ""
    assert host.view("pc2").reason == "RAM and disk could not be measured: psutil failed"


def test_a_lease_that_asks_for_other_figures_gives_up_what_it_has() -> None:
    host = account()
    host.put("a", ram=40 * GIB)
    assert host.fits(ram=50 * GIB)
    assert host.fits(ram=50 * GIB, lease_id="a") == ""
    look(host, available=0, a=0)
    assert host.fits(ram=40 * GIB, lease_id="a") == "", "less than it has always fits"


def test_weights_are_parked_where_they_fit_beside_what_the_lease_has_in_memory() -> None:
    host = account()
    host.put("a", ram=10 * GIB)
    assert host.parks("a", 40 * GIB) == ""
    assert host.parks("b", 40 * GIB) == ""
    assert host.parks("a", 42 * GIB).startswith("cannot be parked: 52.0 GiB of host RAM needed")
    host.put("a", ram=50 * GIB)
    assert host.parks("b", 40 * GIB).startswith("cannot be parked: 40.0 GiB of host RAM needed; 1.2 GiB free")


def test_the_view_adds_up() -> None:
    host = account()
    host.put("a", ram=8 * GIB, disk=GIB, cpu=1.5)
    look(host, available=RAM - 20 * GIB, a=4 * GIB)
    view = host.view("pc2")
    assert (view.ram_leased_bytes, view.ram_others_bytes, view.ram_available_bytes) == (
        8 * GIB,
        16 * GIB,
        RAM - 20 * GIB,
    )
    assert (view.cpu_total_cores, view.cpu_ceiling_cores, view.cpu_leased_cores) == (16.0, 12.8, 1.5)
    assert view.host == "pc2"
    assert view.reason == ""


def test_what_is_kept_for_a_request_nobody_else_gets_and_it_is_told() -> None:
    host = account()
    host.keep("want", ram=40 * GIB, disk=GIB, cpu=1.5, model="qwen")
    assert host.fits(ram=40 * GIB, room="want") == ""
    assert host.fits(ram=11 * GIB) == ""
    short = host.shortage(ram=12 * GIB)
    assert short is not None
    assert (short.free, short.never) == (int(0.8 * RAM) - 40 * GIB, False)
    assert short.reason == (
        "12.0 GiB of host RAM needed; 11.2 GiB free; 51.2 GiB of 64.0 GiB may be leased; kept for requests: qwen 40.0 GiB"
    )
    assert host.parks("asleep", 12 * GIB).startswith("cannot be parked: 12.0 GiB of host RAM needed; 11.2 GiB free")
    view = host.view("pc2")
    assert (view.ram_reserved_bytes, view.disk_reserved_bytes, view.cpu_reserved_cores) == (40 * GIB, GIB, 1.5)
    assert view.ram_grantable_bytes == int(0.8 * RAM) - 40 * GIB
    host.keep("want", ram=10 * GIB)
    host.keep_nothing("want")
    host.keep_nothing("want")
    assert host.fits(ram=51 * GIB) == ""
    assert host.view("pc2").ram_reserved_bytes == 0


def test_of_two_reservations_the_earlier_is_served_first_with_what_was_kept_for_it() -> None:
    host = account()
    host.put("old", ram=30 * GIB)
    host.keep("first", ram=20 * GIB)
    host.keep("second", ram=30 * GIB)
    assert host.fits(ram=20 * GIB, room="first") == ""
    assert host.fits(ram=30 * GIB, room="second")
    assert host.fits(ram=21 * GIB, room="first"), "what is more than was kept for it is the second's"
    host.keep("first", ram=15 * GIB)
    assert host.fits(ram=15 * GIB, room="first") == "", "it keeps its place"
    host.drop("old")
    assert host.fits(ram=30 * GIB, room="second") == ""


def test_what_a_lease_has_already_is_not_kept_once_more_for_its_waking() -> None:
    host = account()
    host.put("asleep", ram=30 * GIB)
    host.keep("want", ram=50 * GIB, own="asleep")
    assert host.view("pc2").ram_reserved_bytes == 20 * GIB
    assert host.fits(ram=50 * GIB, lease_id="asleep", room="want") == ""
    host.keep("want", ram=10 * GIB, own="asleep")
    assert host.view("pc2").ram_reserved_bytes == 0


def test_what_a_request_could_have_is_below_zero_by_what_others_were_promised_beyond_it() -> None:
    assert HostAccount(RAM, DISK).spare() is None
    host = HostAccount(RAM, DISK)
    look(host)
    assert host.spare() == (int(0.8 * RAM), int(0.8 * DISK), 0.0)
    host = account()
    host.put("going", ram=40 * GIB)
    host.keep("want", ram=30 * GIB, cpu=2.0)
    assert host.spare("want") == (int(0.8 * RAM) - 40 * GIB, int(0.8 * DISK), 12.8)
    assert host.spare("other") == (int(0.8 * RAM) - 70 * GIB, int(0.8 * DISK), 10.8)


class HostMachine(RuleBasedStateMachine):
    """A host of 100 whose strangers are steady and whose leases take what they were promised, when they like."""

    def __init__(self) -> None:
        super().__init__()
        self.host = HostAccount(100, 100, 8.0, ResourcePolicy(spare_fraction=0.0))
        self.promised: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self.shown: dict[str, int] = {}
        self.kept: dict[str, int] = {}
        self.left_behind = 0
        self.strangers = 0

    @initialize(strangers=st.integers(0, 60))
    def begin(self, strangers: int) -> None:
        self.strangers = strangers
        self.look()

    @property
    def used(self) -> int:
        return self.strangers + self.left_behind + sum(self.taken.values())

    @rule()
    def look(self) -> None:
        self.shown = dict(self.taken)
        self.host.measure(
            ram_total_bytes=100,
            ram_available_bytes=100 - self.used,
            disk_total_bytes=100,
            disk_available_bytes=100 - self.strangers,
            held_ram=dict(self.taken),
        )

    @rule(name=st.sampled_from("abcd"), wanted=st.integers(1, 60))
    def ask(self, name: str, wanted: int) -> None:
        if not self.host.fits(ram=wanted, lease_id=name):
            self.host.put(name, ram=wanted)
            self.promised[name] = wanted
            self.taken[name] = min(wanted, self.taken.get(name, 0))

    @rule(name=st.sampled_from("abcd"), wanted=st.integers(1, 60))
    def keep(self, name: str, wanted: int) -> None:
        """Room is made for a request, as far as there is room, or more of it by those who go."""
        if not self.host.fits(ram=wanted, room=name):
            self.host.keep(name, ram=wanted)
            self.kept[name] = wanted

    @rule(name=st.sampled_from("abcd"), part=st.floats(0.2, 1.5))
    def grant_what_was_kept(self, name: str, part: float) -> None:
        wanted = int(part * self.kept.get(name, 0))
        if wanted and name not in self.promised and not self.host.fits(ram=wanted, room=name):
            self.host.put(name, ram=wanted)
            self.promised[name], self.taken[name] = wanted, 0
            self.forget(name)

    @rule(name=st.sampled_from("abcd"))
    def forget(self, name: str) -> None:
        self.host.keep_nothing(name)
        self.kept.pop(name, None)

    @rule(name=st.sampled_from("abcd"), part=st.floats(0, 1))
    def take(self, name: str, part: float) -> None:
        if name in self.promised:
            self.taken[name] = int(part * self.promised[name])

    @rule(name=st.sampled_from("abcd"), leaves=st.booleans())
    def end(self, name: str, leaves: bool) -> None:
        self.host.drop(name)
        self.promised.pop(name, None)
        taken = self.taken.pop(name, 0)
        if leaves and taken <= self.shown.pop(name, 0):  # what it took since the last look nobody can know of
            self.left_behind += taken

    @rule()
    def clean(self) -> None:
        self.left_behind = 0

    @invariant()
    def the_sum_is_within_what_there_is(self) -> None:
        view = self.host.view("h")
        assert view.ram_leased_bytes == sum(self.promised.values()) <= view.ram_ceiling_bytes
        assert view.ram_reserved_bytes == sum(self.kept.values())
        assert 0 <= view.ram_grantable_bytes <= view.ram_ceiling_bytes - view.ram_leased_bytes - view.ram_reserved_bytes
        assert view.ram_others_bytes >= 0

    @invariant()
    def every_lease_can_take_all_that_it_was_promised_and_every_request_what_is_kept_for_it(self) -> None:
        promised = sum(self.promised.values()) + sum(self.kept.values())
        assert self.strangers + self.left_behind + promised <= 100


HostMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestHost = HostMachine.TestCase


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40)), st.integers(0, 100))
@settings(max_examples=50)
def test_when_all_is_measured_others_are_exactly_what_no_lease_holds(held: dict[str, int], used: int) -> None:
    host = HostAccount(100, 100, 1.0)
    for name, holds in held.items():
        host.put(name, ram=max(1, holds // 2))
    host.measure(
        ram_total_bytes=100,
        ram_available_bytes=100 - used,
        disk_total_bytes=100,
        disk_available_bytes=100,
        held_ram=held,
    )
    assert host.view("h").ram_others_bytes == max(0, used - sum(held.values()))


def test_cores_that_are_not_known_are_leased_to_nobody_until_they_are() -> None:
    host = HostAccount(RAM, DISK)
    look(host)
    assert host.fits(ram=GIB, disk=GIB) == ""
    assert host.fits(cpu=0.5) == "0.5 cores of CPU needed, which has not been measured yet"
    host.measure(
        ram_total_bytes=RAM, ram_available_bytes=RAM, disk_total_bytes=DISK, disk_available_bytes=DISK, cpu_cores=8.0
    )
    assert host.fits(cpu=6.4) == ""
    assert host.view("h").cpu_total_cores == 8.0


def test_what_an_owner_holds_is_spread_over_its_leases_of_ram() -> None:
    host = account()
    one, two, none = ProcessId(1, 1), ProcessId(2, 2), ProcessId(3, 3)
    for name, ram in (("a", 10), ("b", 5), ("c", 7), ("vram-only", 0)):
        host.put(name, ram=ram, cpu=1.0)
    owned = {one: ["a", "vram-only", "b"], two: ["c"], none: ["vram-only"]}
    assert host.by_lease({one: 12, two: 9, none: 4, ProcessId(4, 4): 1}, owned) == {"a": 10, "b": 2, "c": 9}
    assert host.by_lease({one: 20}, owned) == {"a": 10, "b": 10}
    assert host.by_lease({one: 3}, owned) == {"a": 3, "b": 0}


def test_a_lease_of_nothing_beside_the_card_leaves_no_trace() -> None:
    host = account()
    before = host.view("h")
    host.put("a", model="qwen")
    assert host.view("h") == before
    host.put("a", ram=GIB, disk=GIB, cpu=1.0)
    host.put("a")
    assert host.view("h") == before
