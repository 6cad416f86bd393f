"""What a request takes of its host beside a card, kept for it while room is made: granted, withdrawn or late ends that."""

from __future__ import annotations

import pytest

from common.api.leases import LeaseGranted
from common.api.supervisor import RoomPromised
from common.errors import NoCapacity, TooLarge
from common.vram.amount import GIB
from common.vram.lease_beside import Beside
from common.vram.lease_facts import Expiring
from common.vram.resources import Spare
from tests.common.vram.table_lab import AT, SLEEPER, UNLOADER, Bench, orders, refused


def reserved(bench: Bench) -> int:
    return bench.table.host_memory().ram_reserved_bytes


def room_made(bench: Bench, lease_id: str = "want", ram: int = 40, patience_s: float = 30.0) -> None:
    """Room for 12 GiB of VRAM, and for so many GiB of the host's RAM, as the host's own line has it made."""
    asked = bench.ask(lease_id, 12, model="llama", ram_bytes=ram * GIB, card_uuid="GPU-a")
    decision = bench.commit(bench.table.evict_for(asked, bench.now, AT, patience_s))
    assert isinstance(decision.reply, RoomPromised), decision.reply


def beside(ram: int = 0) -> Bench:
    """A host whose card is full of one idle lease, with 51.2 GiB of RAM to lease."""
    bench = Bench(a=24, b=24).with_host(ram=64, cores=8.0)
    bench.loaded("old", 20, 1, ram_bytes=ram * GIB)
    return bench


def test_nobody_else_takes_the_hosts_ram_between_the_end_of_those_that_went_and_the_grant() -> None:
    bench = beside()
    room_made(bench)
    bench.end(1)
    bench.look()
    short = refused(bench.admit("other", 1, card_uuid="GPU-b", ram_bytes=20 * GIB), NoCapacity)
    assert "kept for requests: llama 40.0 GiB" in short.message
    assert bench.table.short_of_host(bench.ask("other", 1, ram_bytes=20 * GIB))
    assert bench.plan(1, ram_bytes=20 * GIB).outcome == "wait"
    refused(bench.admit("engine", 0, 5, cards=0, ram_bytes=20 * GIB), NoCapacity)
    assert bench.table.short_of_host(bench.ask("want", 12, ram_bytes=40 * GIB)) == ""
    assert bench.grant("want", 12, model="llama", ram_bytes=40 * GIB).card_uuid == "GPU-a"
    assert reserved(bench) == 0
    assert bench.table.host_memory().ram_leased_bytes == 40 * GIB
    assert bench.grant("small", 1, ram_bytes=10 * GIB)


def test_it_ends_when_nobody_wants_it_or_it_is_late() -> None:
    bench = beside()
    room_made(bench)
    assert reserved(bench) == 40 * GIB
    bench.commit(bench.table.forget_room("want"))
    assert (reserved(bench), bench.table.reserved()) == (0, {})
    room_made(bench, patience_s=10.0)
    bench.wait(8.0)
    room_made(bench, patience_s=10.0)
    bench.wait(8.0)
    assert reserved(bench) == 40 * GIB, "asked again, its time starts anew"
    bench.wait(3.0)
    assert (reserved(bench), bench.table.reserved()) == (0, {})
    assert bench.table.forget_room("want").facts == ()


def test_it_ends_with_the_request_that_could_never_be_granted_and_with_a_restart() -> None:
    bench = beside()
    room_made(bench)
    refused(bench.admit("want", 12, ram_bytes=60 * GIB), TooLarge)
    assert reserved(bench) == 0
    room_made(bench)
    bench.restart()
    bench.with_host(ram=64)
    assert reserved(bench) == 0


def test_weights_go_into_host_ram_only_beside_what_is_kept_there() -> None:
    bench = Bench(a=24).with_host(ram=64)
    bench.loaded("old", 20, 1, unload=SLEEPER)
    assert bench.table.not_parked(["old"]) == ""
    room_made(bench)
    assert bench.table.not_parked(["old"]).startswith("cannot be parked: 20.0 GiB of host RAM needed; 11.2 GiB free")


def test_who_wakes_has_only_what_it_wants_beyond_what_it_has_kept_for_it() -> None:
    bench = Bench(a=24).with_host(ram=64)
    bench.loaded("asleep", 10, 1, unload=SLEEPER, ram_bytes=5 * GIB)
    bench.commit(bench.table.evict(["asleep"], "idle", bench.now, AT))
    bench.use("a", 1, 0.5)
    bench.look()
    bench.parked("asleep", 0.5, 9.5)
    bench.loaded("old", 20, 2, model="llama")
    asked = bench.ask("want", 10, 1, ram_bytes=20 * GIB)
    bench.commit(bench.table.evict_for(asked, bench.now, AT))
    assert reserved(bench) == 20 * GIB - (5 * GIB + int(9.5 * GIB))
    bench.end(2)
    bench.look()
    woken = bench.grant("want", 10, 1, ram_bytes=20 * GIB)
    assert (woken.lease_id, reserved(bench)) == ("asleep", 0)
    assert bench.table.host_memory().ram_leased_bytes == 20 * GIB


def test_room_that_is_made_on_a_named_card_keeps_the_hosts_ram_too_and_nobody_goes_while_that_is_short() -> None:
    bench = beside()
    bench.grant("holder", 1, card_uuid="GPU-b", ram_bytes=30 * GIB)
    error = refused(bench.room("want", 12, ram_bytes=40 * GIB), NoCapacity)
    assert "40.0 GiB of host RAM needed; 21.2 GiB free" in error.message
    refused(bench.room("want", 12, ram_bytes=60 * GIB), TooLarge)
    assert (reserved(bench), bench.lease("old").state) == (0, "held")
    chosen, decision = bench.promised("want", 12, ram_bytes=20 * GIB, cpu_cores=2.0, disk_bytes=GIB)
    assert (chosen, len(orders(decision))) == (["old"], 1)
    figures = bench.table.host_memory()
    assert (figures.ram_reserved_bytes, figures.disk_reserved_bytes, figures.cpu_reserved_cores) == (20 * GIB, GIB, 2.0)
    bench.promised("want", 12, ram_bytes=20 * GIB)
    assert reserved(bench) == 20 * GIB


def test_what_others_go_for_is_kept_before_it_is_there_and_by_itself() -> None:
    bench = Bench(a=24).with_host(ram=64)
    bench.grant("engine", 0, 1, cards=0, ram_bytes=40 * GIB, in_use=False)
    wanted, until = Beside(40 * GIB, 0, 0.0), bench.now + 30.0
    bench.commit(bench.table.keep_of_host(wanted, "want", "llama", until))
    assert bench.table.resources.spare("want") == Spare(int(64 * GIB * 0.8) - 40 * GIB, 80 * GIB, 0.0)
    refused(bench.admit("other", 1, ram_bytes=5 * GIB), NoCapacity)
    refused(bench.admit("want", 1, ram_bytes=40 * GIB), NoCapacity)
    bench.end(1)
    refused(bench.admit("other", 1, ram_bytes=20 * GIB), NoCapacity)
    assert isinstance(bench.admit("want", 1, ram_bytes=40 * GIB).reply, LeaseGranted)
    assert reserved(bench) == 0
    assert bench.table.keep_of_host(wanted, "want", "llama", until).facts == (), "it has it"
    assert bench.table.keep_of_host(wanted, "engine", "piper", until).facts == (), "it had it"
    assert bench.table.keep_of_host(Beside(), "new", "llama", until).facts == ()
    bench.commit(bench.table.keep_of_host(Beside(GIB, 0, 0.0), "late", "llama", until))
    bench.wait(31.0)
    assert reserved(bench) == 0


@pytest.mark.parametrize("longer", ["card", "host"])
def test_what_is_kept_on_a_card_and_beside_it_ends_together(longer: str) -> None:
    bench = beside()
    room_made(bench, patience_s=20.0 if longer == "card" else 5.0)
    until = bench.now + (5.0 if longer == "card" else 20.0)
    bench.commit(bench.table.keep_of_host(Beside(40 * GIB, 0, 0.0), "want", "llama", until))
    bench.wait(10.0)
    assert (reserved(bench), set(bench.table.reserved())) == (40 * GIB, {"want"})
    bench.wait(11.0)
    assert (reserved(bench), bench.table.reserved()) == (0, {})


def test_nobody_goes_for_vram_while_the_host_is_short_beside_what_is_kept_for_another() -> None:
    bench = beside()
    bench.loaded("idle", 20, 2, card="b", model="tts")
    room_made(bench)
    asked = bench.ask("second", 12, model="mistral", ram_bytes=20 * GIB)
    decision = bench.commit(bench.table.evict_for(asked, bench.now, AT))
    assert "kept for requests: llama 40.0 GiB" in refused(decision, NoCapacity).message
    assert not [fact for fact in decision.facts if isinstance(fact, Expiring)]


def test_every_lease_is_weighed_for_what_the_host_has_beside_its_cards_as_it_is_on_a_card() -> None:
    bench = Bench(a=24).with_host(ram=64)
    bench.loaded("agents", 4, 1, ram_bytes=10 * GIB)
    bench.loaded("engine", 4, 2, model="tts", load_s=3.0, pinned=True)
    bench.grant("user", 4, 2, model="tts", share=True)
    bench.loaded("beside", 2, 3, model="a")
    bench.loaded("high", 2, 3, model="b", priority=90)
    bench.loaded("alone", 2, 4, model="a", unload=UNLOADER)
    bench.loaded("higher", 2, 4, model="b", priority=90)
    weighed = {each.lease_id: each for each in bench.table.beside_cards(50, bench.now)}
    stays = {lease_id: each.pinned for lease_id, each in weighed.items()}
    assert stays == {"agents": False, "engine": True, "beside": True, "high": False, "alone": False, "higher": False}
    assert (weighed["agents"].ram_bytes, weighed["engine"].load_s) == (10 * GIB, 3.0)
    assert weighed["agents"].load_s > 0.0, "nobody said how long its load takes, and it is not for nothing"
    assert not {each.lease_id: each for each in bench.table.beside_cards(90, bench.now)}["beside"].pinned


def test_who_goes_for_host_ram_is_not_put_to_sleep_in_it() -> None:
    bench = Bench(a=24).with_host(ram=64)
    for lease_id in ("one", "two"):
        bench.loaded(lease_id, 5, 1, unload=SLEEPER, ram_bytes=2 * GIB)
    bench.use("a", 1, 10)
    bench.look()
    decision = bench.commit(bench.table.evict(["two"], "makes room for llama", bench.now, AT, for_good=True))
    (order,) = orders(decision)
    assert (order.lease_ids, order.residual_bytes) == (("two",), 0)
    assert order.not_parked == "the host's RAM, disk or cores that it holds are wanted"
    assert bench.table.not_parked(["two"]) == bench.table.not_parked(["one", "two"]) == order.not_parked
    assert bench.table.not_parked(["one"]) == ""
    bench.restart()
    bench.with_host(ram=64)
    (again,) = bench.table.pending_evictions()
    assert again.order.not_parked == order.not_parked, "a restart puts nobody to sleep either"
    bench.evicted("two", n=5)
    assert bench.table.host_memory().ram_leased_bytes == 2 * GIB
