from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.security.keyring import HostKeys
from common.supervisor.links.own_list import next_list

WANTED = HostKeys(host="a", serial=0, issued_at=0.0, address="10.0.0.1")


def test_a_list_that_says_the_same_stays_as_it_was() -> None:
    first = next_list(WANTED, None, 100.5)
    assert (first.serial, first.issued_at) == (100, 100.5)
    assert next_list(WANTED, first, 200.0) is first
    assert next_list(WANTED, first, 200.0, seen=100) is first


def test_the_first_list_follows_the_clock_alone() -> None:
    assert next_list(WANTED, None, 0.0).serial == 0


def test_every_change_has_a_higher_serial_even_when_the_clock_was_set_back() -> None:
    first = next_list(WANTED, None, 100.0)
    second = next_list(replace(WANTED, address="10.0.0.2"), first, 50.0)
    assert (second.serial, second.issued_at) == (101, 50.0)


def test_one_that_was_seen_elsewhere_under_a_higher_serial_is_surpassed() -> None:
    first = next_list(WANTED, None, 100.0)
    assert next_list(WANTED, first, 100.0, seen=500).serial == 501
    assert next_list(WANTED, None, 100.0, seen=500).serial == 501


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0, 1e6), st.integers(-1, 10**6))))
def test_serials_only_rise(changes: list[tuple[str, float, int]]) -> None:
    last = next_list(WANTED, None, 0.0)
    for address, now, seen in changes:
        fresh = next_list(replace(WANTED, address=address), last, now, seen)
        assert fresh is last or fresh.serial > max(last.serial, seen)
        assert fresh.address == address
        last = fresh
