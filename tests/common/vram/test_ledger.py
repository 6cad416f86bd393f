from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.vram.amount import GIB, MIB
from common.vram.cards import UNKNOWN_START, CardSample, ProcessId, ProcessUse
from common.vram.ledger import DEFAULT, Account, Claim, Holding, LedgerPolicy, Share, account, capacity, staleness

TOTAL = 24 * GIB
GUARD = 256 * MIB
DRIVER = 400 * MIB
OWNER = ProcessId(100, 5_000)
HONEST = ProcessId(200, 5_000)


def use(pid: int, used: int | None, start: int = 5_000, name: str = "python") -> ProcessUse:
    return ProcessUse(pid, start, name, used)


def card(
    *processes: ProcessUse, nameless: int = 0, problem: str = "", free: int | None = None, listed: bool = True
) -> CardSample:
    held = sum(each.used_bytes or 0 for each in processes) + nameless
    free_bytes = TOTAL - held if free is None else free
    return CardSample(
        host="mainpc",
        index=0,
        uuid="GPU-a",
        name="card",
        total_bytes=TOTAL,
        free_bytes=free_bytes,
        used_bytes=held,
        processes=processes if listed else None,
        problem=problem,
    )


def lease(lease_id: str, n: int, owner: ProcessId | None = OWNER, base: int = 0) -> Claim:
    return Claim(lease_id, n, owner, base)


def test_an_empty_card_grants_all_but_the_guard_band() -> None:
    assert account(card(), [], {}).grantable_bytes == TOTAL - GUARD == capacity(TOTAL)


def test_the_guard_band_grows_with_large_cards_and_never_takes_more_than_the_card() -> None:
    assert capacity(80 * GIB) == 80 * GIB - int(0.8 * GIB)
    assert capacity(100 * MIB) == 0


def test_bytes_leased_but_not_yet_used_are_not_free() -> None:
    assert account(card(), [lease("a", 10 * GIB)], {}).grantable_bytes == 14 * GIB - GUARD


def test_bytes_that_are_leased_and_measured_count_once() -> None:
    drawn = account(card(use(100, 10 * GIB)), [lease("a", 10 * GIB)], {})
    assert drawn.grantable_bytes == 14 * GIB - GUARD
    assert drawn.shares["a"] == Share(10 * GIB, True)


@pytest.mark.parametrize(("used", "grantable"), [(7 * GIB, 14 * GIB - GUARD), (13 * GIB, 11 * GIB - GUARD)])
def test_an_estimate_that_is_wrong_by_a_third_counts_at_the_larger_figure(used: int, grantable: int) -> None:
    assert account(card(use(100, used)), [lease("a", 10 * GIB)], {}).grantable_bytes == grantable


def test_a_lease_without_an_owner_counts_in_full_beside_the_stranger_that_may_be_its_process() -> None:
    drawn = account(card(use(100, 4 * GIB)), [lease("a", 10 * GIB, None)], {})
    assert drawn.grantable_bytes == 10 * GIB - GUARD
    assert not drawn.shares["a"].verified


def test_the_processes_of_one_tree_are_their_owners() -> None:
    sample = card(use(100, 1 * GIB), use(101, 4 * GIB), use(102, 5 * GIB))
    drawn = account(sample, [lease("a", 10 * GIB)], {101: 100, 102: 100})
    assert drawn.grantable_bytes == 14 * GIB - GUARD
    assert drawn.strangers == ()


def test_an_owner_inside_another_owners_tree_keeps_its_own_bytes() -> None:
    inner = ProcessId(101, 5_000)
    sample = card(use(100, 1 * GIB), use(101, 4 * GIB))
    drawn = account(sample, [lease("a", 2 * GIB), lease("b", 5 * GIB, inner)], {101: 100})
    assert (drawn.shares["a"].measured_bytes, drawn.shares["b"].measured_bytes) == (1 * GIB, 4 * GIB)
    assert drawn.grantable_bytes == 17 * GIB - GUARD


def test_two_leases_of_one_process_share_what_it_holds_in_the_order_of_their_grants() -> None:
    drawn = account(card(use(100, 9 * GIB)), [lease("a", 4 * GIB), lease("b", 4 * GIB)], {})
    assert (drawn.shares["a"].measured_bytes, drawn.shares["b"].measured_bytes) == (4 * GIB, 5 * GIB)
    assert drawn.grantable_bytes == 15 * GIB - GUARD


def test_a_reused_pid_is_a_stranger() -> None:
    drawn = account(card(use(100, 3 * GIB, start=9_999, name="game")), [lease("a", 10 * GIB)], {})
    assert [(each.pid, each.name, each.bytes) for each in drawn.strangers] == [(100, "game", 3 * GIB)]
    assert drawn.grantable_bytes == 11 * GIB - GUARD


def test_an_owner_that_ends_while_the_card_is_looked_at_is_no_stranger() -> None:
    drawn = account(card(use(OWNER.pid, 10 * GIB, start=UNKNOWN_START)), [lease("lease-1", 10 * GIB)], {})
    assert (drawn.strangers, drawn.measured_bytes) == ((), 10 * GIB)


def test_what_the_driver_holds_is_not_granted() -> None:
    drawn = account(card(nameless=DRIVER), [lease("a", 10 * GIB, base=DRIVER)], {})
    assert drawn.grantable_bytes == 14 * GIB - DRIVER - GUARD
    assert drawn.base_bytes == DRIVER


@pytest.mark.parametrize("listed", [True, False])
def test_a_lease_whose_process_nvml_hides_is_unverified_and_counts_once(listed: bool) -> None:
    sample = card(nameless=DRIVER + 10 * GIB, listed=listed)
    drawn = account(sample, [lease("a", 10 * GIB, base=DRIVER)], {})
    assert drawn.grantable_bytes == 14 * GIB - DRIVER - GUARD
    assert drawn.shares["a"] == Share(0, False)


def test_a_process_listed_without_its_bytes_leaves_its_lease_unverified() -> None:
    drawn = account(card(use(100, None), nameless=10 * GIB), [lease("a", 10 * GIB)], {})
    assert drawn.grantable_bytes == 14 * GIB - GUARD
    assert drawn.shares["a"] == Share(0, False)


def test_a_stranger_whose_bytes_are_hidden_is_named_and_its_bytes_are_held() -> None:
    drawn = account(card(use(7, None, name="game"), nameless=2 * GIB), [], {})
    assert [(each.name, each.bytes) for each in drawn.strangers] == [("game", 0)]
    assert drawn.grantable_bytes == 22 * GIB - GUARD


def test_hidden_bytes_beyond_a_lease_are_held() -> None:
    drawn = account(card(nameless=13 * GIB), [lease("a", 10 * GIB)], {})
    assert drawn.grantable_bytes == 11 * GIB - GUARD
    assert drawn.base_bytes == 3 * GIB


def test_bytes_left_behind_by_an_ended_lease_explain_nothing_of_the_next() -> None:
    sample = card(nameless=10 * GIB)
    drawn = account(sample, [lease("b", 5 * GIB)], {}, lingering_bytes=10 * GIB)
    assert drawn.grantable_bytes == 9 * GIB - GUARD
    assert drawn.base_bytes == 0


def test_unknown_growth_freezes_the_card_until_a_look_without_it() -> None:
    grown = account(card(nameless=3 * GIB), [], {}, base_before=1 * GIB)
    assert grown.grantable_bytes == 0
    assert grown.problem == "2.0 GiB appeared that no process and no lease accounts for"
    calm = account(card(nameless=3 * GIB), [], {}, base_before=grown.base_bytes)
    assert (calm.problem, calm.grantable_bytes) == ("", 21 * GIB - GUARD)


def test_a_stranger_that_grows_is_counted_and_freezes_nothing() -> None:
    drawn = account(card(use(7, 6 * GIB)), [], {}, base_before=0)
    assert (drawn.problem, drawn.grantable_bytes) == ("", 18 * GIB - GUARD)


def test_a_failed_probe_grants_nothing_and_says_why() -> None:
    drawn = account(card(problem="NVML: unknown error", free=TOTAL), [lease("a", 1 * GIB)], {})
    assert (drawn.grantable_bytes, drawn.problem, drawn.leased_bytes) == (0, "NVML: unknown error", 1 * GIB)


def test_a_measurement_is_believed_only_while_it_is_recent() -> None:
    assert staleness(100.0, 105.0) == ""
    assert staleness(100.0, 107.2) == "last measured 7.2 s ago"


def test_free_beyond_the_total_is_not_believed() -> None:
    assert account(card(free=2 * TOTAL), [], {}).grantable_bytes == TOTAL - GUARD


sizes = st.integers(0, 30 * GIB)
uses = st.lists(st.tuples(st.integers(100, 105), st.none() | sizes, st.sampled_from([5_000, 6_000])), max_size=6)
claims = st.lists(st.tuples(sizes, st.none() | st.integers(100, 103), sizes), max_size=6)


def drawn_from(
    processes: list[tuple[int, int | None, int]], leases: list[tuple[int, int | None, int]], free: int
) -> Account:
    held = [
        Claim(f"l{n}", size, owner and ProcessId(owner, 5_000), base) for n, (size, owner, base) in enumerate(leases)
    ]
    sample = card(*(use(pid, used, start) for pid, used, start in processes), free=free)
    return account(sample, held, {104: 100, 105: 101})


@given(uses, claims, st.integers(-GIB, 40 * GIB))
def test_no_figure_is_negative_and_never_more_than_the_law_allows(
    processes: list[tuple[int, int | None, int]], leases: list[tuple[int, int | None, int]], free: int
) -> None:
    drawn = drawn_from(processes, leases, free)
    leased = sum(size for size, _, _ in leases)
    assert 0 <= drawn.grantable_bytes <= max(0, min(free, TOTAL - leased) - GUARD)
    assert drawn.base_bytes >= 0
    assert drawn.nameless_bytes >= 0
    assert all(stranger.bytes >= 0 for stranger in drawn.strangers)


@given(uses, claims, st.integers(0, TOTAL), sizes)
def test_one_more_lease_never_leaves_more_than_the_difference(
    processes: list[tuple[int, int | None, int]], leases: list[tuple[int, int | None, int]], free: int, size: int
) -> None:
    before = drawn_from(processes, leases, free)
    after = drawn_from(processes, [*leases, (size, 990, before.base_bytes)], free)
    assert after.grantable_bytes <= max(0, before.grantable_bytes - size)


def test_the_knobs_can_be_turned() -> None:
    policy = LedgerPolicy(guard_fraction=0.0, guard_floor_bytes=0, stale_s=1.0)
    assert account(card(), [], {}, policy).grantable_bytes == TOTAL
    assert staleness(0.0, 1.5, policy)
    assert DEFAULT.stale_s == 5.0


def kept(lease_id: str, n: int) -> Claim:
    return Claim(lease_id, n, OWNER, 0, quarantined=True)


def test_quarantined_bytes_count_while_they_are_seen_and_promise_nothing() -> None:
    drawn = account(card(use(100, 6 * GIB)), [kept("old", 9 * GIB)], {})
    assert (drawn.leased_bytes, drawn.measured_bytes, drawn.strangers) == (0, 6 * GIB, ())
    assert drawn.grantable_bytes == 18 * GIB - GUARD


def test_a_lease_beside_quarantined_bytes_counts_beside_them() -> None:
    drawn = account(card(use(100, 9 * GIB)), [kept("old", 9 * GIB), lease("new", 4 * GIB)], {})
    assert drawn.grantable_bytes == 11 * GIB - GUARD
    assert drawn.shares["new"].measured_bytes == 0
    assert drawn.holdings == {"new": Holding(4 * GIB, 0)}


def test_quarantined_bytes_that_are_hidden_explain_nameless_ones() -> None:
    drawn = account(card(nameless=9 * GIB), [kept("old", 9 * GIB)], {}, base_before=0)
    assert (drawn.grantable_bytes, drawn.base_bytes, drawn.problem) == (15 * GIB - GUARD, 0, "")


def test_what_an_owner_leased_and_holds_in_all_is_told_under_its_last_lease() -> None:
    drawn = account(card(use(100, 9 * GIB)), [lease("a", 4 * GIB), lease("b", 2 * GIB)], {})
    assert drawn.holdings == {"b": Holding(6 * GIB, 9 * GIB)}
    assert account(card(use(100, 12 * GIB)), [kept("old", 9 * GIB)], {}).holdings == {}
    assert account(card(), [Claim("c", GIB, None, 0)], {}).holdings == {}


def test_a_loader_that_takes_more_than_it_leased_counts_with_what_it_took_in_the_look_that_shows_it() -> None:
    drawn = account(card(use(100, 10 * GIB)), [lease("liar", 6 * GIB), lease("honest", 4 * GIB, owner=HONEST)], {})
    assert drawn.grantable_bytes == 10 * GIB - GUARD


def test_a_card_in_ill_health_grants_nothing_and_is_measured_all_the_same() -> None:
    sample = msgspec.structs.replace(card(use(100, 9 * GIB)), health="97 degrees")
    drawn = account(sample, [lease("a", 9 * GIB)], {})
    assert (drawn.grantable_bytes, drawn.problem) == (0, "97 degrees")
    assert (drawn.measured_bytes, drawn.free_bytes) == (9 * GIB, 15 * GIB)


def test_what_is_missing_on_a_card_that_holds_too_much_is_told() -> None:
    drawn = account(card(use(7, 20 * GIB)), [lease("a", 10 * GIB)], {})
    assert (drawn.grantable_bytes, drawn.room_bytes) == (0, -6 * GIB - GUARD)
