from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from common.api.leases import Lease
from common.config.models import Needs
from common.config.units import Size
from common.supervisor.models.host_room import lacking, who_goes
from common.vram.resources import Spare
from tests.common.supervisor.models.desk import GIB, lease

HORIZON_S = 600.0


def spare(ram_gib: float = 0.0, disk_gib: float = 0.0, cpus: float = 0.0) -> Spare:
    """What the request could have there."""
    return Spare(int(ram_gib * GIB), int(disk_gib * GIB), cpus)


def held(name: str, ram_gib: float = 0.0, cpus: float = 0.0, disk_gib: float = 0.0, **fields: Any) -> Lease:
    amounts = {"ram_bytes": int(ram_gib * GIB), "cpu_cores": cpus, "disk_bytes": int(disk_gib * GIB)}
    return lease(name, name, 0, card_uuid="", card_uuids=[], **amounts, **{"idle_s": 100.0, **fields})


def wants(ram_gib: float = 0.0, cpus: float = 0.0, disk_gib: float = 0.0) -> Needs:
    return Needs(ram=Size(int(ram_gib * GIB)), disk=Size(int(disk_gib * GIB)), cpus=cpus)


def going(needs: Needs, there: Spare, *leases: Lease, priority: int = 50) -> list[str]:
    return [each.lease_id for each in who_goes(needs, there, leases, priority, HORIZON_S)]


def test_nobody_goes_where_it_fits() -> None:
    assert going(wants(8), spare(8), held("a", 8)) == []


def test_the_cheapest_goes_first_and_only_as_many_as_are_needed() -> None:
    cheap, dear = held("cheap", 8, load_s=1.0), held("dear", 8, load_s=60.0)
    assert going(wants(8), spare(), dear, cheap) == ["cheap"]
    assert going(wants(12), spare(), dear, cheap) == ["cheap", "dear"]


def test_who_turned_out_not_to_be_needed_stays() -> None:
    small, large = held("small", 4, load_s=0.1), held("large", 12, load_s=60.0)
    assert going(wants(10), spare(), small, large) == ["large"]


def test_nobody_goes_where_that_would_not_do() -> None:
    assert going(wants(40), spare(), held("a", 8), held("b", 8)) == []


@pytest.mark.parametrize(
    "fields",
    [{"in_use": True}, {"users": 1}, {"pinned": True}, {"priority": 51}, {"shares": "parent"}, {"state": "expiring"}],
)
def test_who_may_not_go_does_not(fields: dict[str, Any]) -> None:
    assert going(wants(8), spare(), held("a", 8, **fields)) == []


def test_what_is_going_already_counts() -> None:
    leaving, idle = held("leaving", 8, state="expiring"), held("idle", 8)
    assert going(wants(8), spare(), leaving, idle) == []
    assert going(wants(12), spare(), leaving, idle) == ["idle"]


def test_only_who_holds_what_is_short_goes() -> None:
    ram, cores = held("ram", 8), held("cores", cpus=4.0, load_s=60.0)
    assert going(wants(cpus=4.0), spare(), ram, cores) == ["cores"]
    assert going(wants(8, cpus=4.0), spare(), ram, cores) == ["ram", "cores"]
    assert going(wants(disk_gib=5), spare(), ram, held("disk", disk_gib=6)) == ["disk"]


def test_a_sleepers_weights_in_host_ram_can_be_had() -> None:
    assert going(wants(8), spare(), held("asleep", 8, state="parked")) == ["asleep"]


def test_who_has_to_leave_a_card_for_it_anyway_goes_before_a_cheaper_one() -> None:
    cheap, dear = held("cheap", 8, load_s=1.0), held("dear", 8, load_s=60.0)
    chosen = who_goes(wants(8), spare(), [cheap, dear], 50, HORIZON_S, leaving={"dear"})
    assert chosen == [dear]
    assert who_goes(wants(8), spare(), [cheap, held("dear", 0)], 50, HORIZON_S, leaving={"dear"}) == [cheap]


def test_what_a_sleeper_has_of_it_already_counts_and_it_does_not_go_for_itself() -> None:
    asleep, other = held("asleep", 6, state="parked"), held("other", 8)
    assert who_goes(wants(6), spare(), [asleep, other], 50, HORIZON_S, own="asleep") == []
    assert who_goes(wants(8), spare(), [asleep, other], 50, HORIZON_S, own="asleep") == [other]
    assert who_goes(wants(20), spare(), [asleep, other], 50, HORIZON_S, own="asleep") == []


def test_what_goes_already_for_an_earlier_request_is_that_ones() -> None:
    leaving, idle = held("leaving", 8, state="expiring"), held("idle", 8)
    assert going(wants(8), spare(-8), leaving, idle) == ["idle"]


@bounds(max_examples=50)
@given(
    ram=st.integers(0, 30), cpus=st.integers(0, 6), free=st.integers(0, 10),
    sizes=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 4), st.integers(0, 60)), max_size=6),
)  # fmt: skip
def test_it_fits_when_they_have_gone_and_nobody_goes_for_nothing(
    ram: int, cpus: int, free: int, sizes: list[tuple[int, int, int]]
) -> None:
    leases = [held(f"l{n}", r, c, load_s=float(s)) for n, (r, c, s) in enumerate(sizes)]
    needs, there = wants(ram, float(cpus)), spare(free)
    chosen = who_goes(needs, there, leases, 50, HORIZON_S)

    def after(gone: list[Lease]) -> bool:
        left = lacking(needs, there, [])
        for each in gone:
            left = left.less(each)
        return not left.short

    assert not chosen or after(chosen)
    assert all(not after([other for other in chosen if other is not each]) for each in chosen)
    assert chosen or after([]) or not after(leases)
