from __future__ import annotations

from collections.abc import Callable

import msgspec

from common.vram.amount import GIB, MIB
from common.vram.card_book import GONE, CardBook
from common.vram.card_entry import Room
from common.vram.cards import CardSample, ProcessId, ProcessUse
from common.vram.ledger import UNSEEN, Claim, Share

TOTAL = 24 * GIB
GUARD = 256 * MIB
OWNER = ProcessId(100, 5_000)


def look(
    *uses: tuple[int, int], nameless: int = 0, uuid: str = "GPU-a", at: float = 0.0, problem: str = "", index: int = 0
) -> CardSample:
    held = sum(used for _, used in uses) + nameless
    return CardSample(
        host="mainpc",
        index=index,
        uuid=uuid,
        name="card",
        total_bytes=0 if problem else TOTAL,
        free_bytes=TOTAL - held,
        used_bytes=held,
        processes=tuple(ProcessUse(pid, 5_000, "python", used) for pid, used in uses),
        sampled_at=at,
        problem=problem,
    )


def book_of(*samples: CardSample) -> CardBook:
    book = CardBook()
    book.measure(samples, {})
    return book


def free(book: CardBook, now: float = 0.0) -> list[int]:
    return [card.grantable_bytes for card in book.candidates(now)]


def claim(lease_id: str, n: int, owner: ProcessId | None = OWNER, base: int = 0) -> Claim:
    return Claim(lease_id, n, owner, base)


def test_before_the_first_look_nothing_is_known_and_the_book_says_so() -> None:
    book = CardBook()
    assert book.candidates(0.0) == ()
    assert book.missing() == "the cards have not been measured yet"
    book.measure([], {})
    assert book.missing() == ""


def test_a_grant_counts_at_once_and_its_end_gives_the_bytes_back() -> None:
    book = book_of(look())
    book.put("GPU-a", claim("a", 10 * GIB))
    assert free(book) == [14 * GIB - GUARD]
    assert book.cards(0.0)[0].leased_bytes == 10 * GIB
    book.drop("GPU-a", "a")
    assert free(book) == [TOTAL - GUARD]


def test_cards_that_nothing_happened_to_are_not_drawn_up_again_until_their_look_is_old() -> None:
    book = book_of(look(), look(uuid="GPU-b", at=1.0, index=1))
    first = book.candidates(1.0)
    assert book.candidates(5.0) is first
    assert [card.problem for card in book.candidates(5.5)] == ["last measured 5.5 s ago", ""]
    book.measure([look(at=6.0), look(uuid="GPU-b", at=6.0, index=1)], {})
    changes: list[Callable[[], None]] = [
        lambda: book.put("GPU-a", claim("a", GIB)),
        lambda: book.change("GPU-a", claim("a", 2 * GIB)),
        lambda: book.drop("GPU-a", "a"),
        lambda: book.reserve("GPU-a", "lease-1", Room(GIB, False)),
        lambda: book.unreserve("GPU-a", "lease-1"),
    ]
    for change in changes:
        before = free(book, 6.0)
        change()
        assert free(book, 6.0) != before


def test_concurrent_claims_against_one_measurement_never_add_up_to_more_than_it() -> None:
    book = book_of(look())
    book.candidates(0.0)
    book.put("GPU-a", claim("a", 20 * GIB))
    book.put("GPU-a", claim("b", 20 * GIB, ProcessId(101, 1)))
    assert free(book) == [0]


def test_bytes_a_process_still_holds_stay_held_after_its_lease_ended() -> None:
    book = book_of(look((100, 10 * GIB)))
    book.put("GPU-a", claim("a", 10 * GIB))
    book.measure([look((100, 10 * GIB))], {})
    assert book.share("GPU-a", "a") == Share(10 * GIB, True)
    book.drop("GPU-a", "a")
    assert free(book) == [14 * GIB - GUARD]
    assert book.cards(0.0)[0].strangers[0].pid == 100


def test_a_second_process_of_the_tree_that_stays_keeps_its_half() -> None:
    book = CardBook()
    book.measure([look((100, 5 * GIB), (101, 5 * GIB))], {101: 100})
    book.put("GPU-a", claim("a", 10 * GIB))
    book.drop("GPU-a", "a")
    book.measure([look((101, 5 * GIB))], {})
    assert free(book) == [19 * GIB - GUARD]


def test_hidden_bytes_of_an_ended_lease_are_not_taken_for_the_next_ones_load() -> None:
    book = book_of(look())
    book.put("GPU-a", claim("a", 10 * GIB))
    book.measure([look(nameless=10 * GIB)], {})
    assert free(book) == [14 * GIB - GUARD]
    book.put("GPU-a", claim("b", 5 * GIB, ProcessId(101, 1), book.base_bytes("GPU-a")))
    book.drop("GPU-a", "a")
    assert free(book) == [9 * GIB - GUARD]
    book.measure([look(nameless=15 * GIB)], {})
    assert free(book) == [9 * GIB - GUARD]
    book.measure([look(nameless=5 * GIB)], {})
    assert free(book) == [19 * GIB - GUARD]


def test_hidden_bytes_left_on_a_lost_card_are_remembered_from_the_look_before() -> None:
    book = book_of(look())
    book.put("GPU-a", claim("a", 10 * GIB))
    book.put("GPU-a", claim("b", 5 * GIB, ProcessId(101, 1)))
    book.measure([look(nameless=10 * GIB)], {})
    book.measure([look(problem="fell off the bus")], {})
    book.drop("GPU-a", "a")
    book.measure([look(nameless=10 * GIB)], {})
    assert free(book) == [9 * GIB - GUARD]


def test_a_lease_that_ends_on_a_card_never_seen_well_leaves_nothing() -> None:
    book = book_of(look(problem="owned by pc2"))
    book.put("GPU-a", claim("a", 1 * GIB))
    book.drop("GPU-a", "a")
    book.measure([look()], {})
    assert free(book) == [TOTAL - GUARD]


def test_a_card_that_was_not_measured_closes_and_keeps_its_leases() -> None:
    book = book_of(look(), look(uuid="GPU-b", index=1))
    book.put("GPU-a", claim("a", 10 * GIB))
    book.measure([look(uuid="GPU-b", index=1)], {})
    lost, well = book.cards(0.0)
    assert (lost.schedulable, lost.reason, lost.grantable_bytes, lost.leased_bytes) == (False, GONE, 0, 10 * GIB)
    assert well.schedulable
    book.measure([look(), look(uuid="GPU-b", index=1)], {})
    assert free(book) == [14 * GIB - GUARD, TOTAL - GUARD]


def test_a_failed_look_closes_every_card_with_its_reason() -> None:
    book = book_of(look())
    book.measure([], {}, "NVML: driver not loaded")
    assert free(book) == [0]
    assert book.candidates(0.0)[0].problem == "NVML: driver not loaded"
    assert book.candidates(0.0)[0].capacity_bytes == TOTAL - GUARD
    assert book.missing() == "NVML: driver not loaded"


def test_a_lost_card_is_closed_until_a_look_finds_it_well() -> None:
    book = book_of(look())
    book.measure([look(problem="Xid 79: fell off the bus")], {})
    assert book.cards(0.0)[0].reason == "Xid 79: fell off the bus"
    book.measure([look()], {})
    assert free(book) == [TOTAL - GUARD]


def test_an_old_measurement_closes_its_card() -> None:
    book = book_of(look(at=10.0))
    assert free(book, 15.0) == [TOTAL - GUARD]
    stale = book.candidates(17.2)[0]
    assert (stale.grantable_bytes, stale.problem) == (0, "last measured 7.2 s ago")
    assert book.cards(17.2)[0].reason == "last measured 7.2 s ago"


def test_a_lease_restored_before_the_first_look_waits_for_its_card() -> None:
    book = CardBook()
    book.put("GPU-a", claim("a", 10 * GIB))
    book.put("GPU-a", claim("b", 1 * GIB))
    book.drop("GPU-a", "b")
    assert book.share("GPU-a", "a") == UNSEEN
    book.measure([look()], {})
    assert free(book) == [14 * GIB - GUARD]


def test_a_card_of_unknown_size_is_named_as_missing() -> None:
    book = book_of(look(problem="owned by pc2", index=3))
    assert book.missing() == "card 3 owned by pc2"
    assert book.candidates(0.0)[0].capacity_bytes == 0
    book.measure([look(index=3)], {})
    assert book.missing() == ""


def test_unknown_growth_closes_the_card_for_one_look() -> None:
    book = book_of(look())
    book.measure([look(nameless=2 * GIB)], {})
    assert free(book) == [0]
    assert "appeared" in book.cards(0.0)[0].reason
    book.measure([look(nameless=2 * GIB)], {})
    assert free(book) == [22 * GIB - GUARD]


def test_free_memory_that_falls_while_it_should_rise_never_wraps() -> None:
    book = book_of(look((7, 20 * GIB)))
    book.put("GPU-a", claim("a", 10 * GIB))
    book.measure([look((7, 24 * GIB))], {})
    assert free(book) == [0]


def test_a_stranger_that_takes_or_frees_memory_is_counted_at_the_next_look() -> None:
    book = book_of(look())
    book.put("GPU-a", claim("a", 10 * GIB))
    book.measure([look((7, 8 * GIB))], {})
    assert free(book) == [6 * GIB - GUARD]
    book.measure([look()], {})
    assert free(book) == [14 * GIB - GUARD]


def test_reserved_bytes_are_found_by_their_lease_alone_and_the_earlier_first() -> None:
    book = book_of(look())
    book.reserve("GPU-a", "first", Room(10 * GIB, False))
    book.reserve("GPU-a", "second", Room(5 * GIB, False))
    most = TOTAL - GUARD
    assert [book.candidates(0.0, each)[0].grantable_bytes for each in ("", "first", "second")] == [
        most - 15 * GIB,
        most,
        most - 10 * GIB,
    ]
    assert [book.candidates(0.0, each)[0].leases for each in ("", "first")] == [2, 1]
    assert book.spare_bytes("GPU-a", "second") == most - 10 * GIB
    book.put("GPU-a", claim("x", 20 * GIB))
    assert book.spare_bytes("GPU-a", "") == most - 35 * GIB
    book.unreserve("GPU-a", "first")
    book.unreserve("GPU-a", "nobody")
    assert book.cards(0.0)[0].reservations == {"second": 5 * GIB}


def test_a_card_reserved_for_one_alone_is_taken_for_the_others() -> None:
    book = book_of(look())
    book.reserve("GPU-a", "alone", Room(1 * GIB, True))
    book.reserve("GPU-a", "next", Room(1 * GIB, False))
    assert [book.candidates(0.0, each)[0].exclusive for each in ("", "alone", "next")] == [True, False, True]


def test_a_lease_counted_anew_counts_with_what_it_keeps() -> None:
    book = book_of(look((100, 10 * GIB)))
    book.put("GPU-a", claim("a", 10 * GIB))
    book.change("GPU-a", claim("a", 1 * GIB))
    assert free(book) == [14 * GIB - GUARD]
    book.measure([look((100, 1 * GIB))], {})
    assert free(book) == [23 * GIB - GUARD]


def test_hidden_bytes_of_a_lease_that_counts_less_stay_until_they_are_gone() -> None:
    book = book_of(look())
    book.put("GPU-a", claim("a", 10 * GIB))
    book.measure([look(nameless=10 * GIB)], {})
    book.change("GPU-a", claim("a", 1 * GIB))
    assert free(book)[0] <= 14 * GIB - GUARD
    book.measure([look(nameless=1 * GIB)], {})
    assert free(book) == [23 * GIB - GUARD]


def test_hidden_bytes_that_an_ended_lease_left_are_not_forgotten_when_another_lease_grows() -> None:
    book = book_of(look())
    book.put("GPU-a", claim("a", 10 * GIB))
    book.put("GPU-a", claim("b", 1 * GIB, ProcessId(101, 1)))
    book.measure([look(nameless=10 * GIB)], {})
    book.drop("GPU-a", "a")
    book.change("GPU-a", claim("b", 5 * GIB, ProcessId(101, 1)))
    assert free(book) == [9 * GIB - GUARD]


def test_a_lease_changes_and_is_quarantined_before_its_card_was_ever_seen() -> None:
    book = CardBook()
    book.put("GPU-a", claim("a", 10 * GIB))
    book.change("GPU-a", Claim("a", 4 * GIB, OWNER, 0, quarantined=True))
    assert book.quarantined_bytes("GPU-a", "a", 0.0) is None
    assert book.tenants("GPU-a") == []
    assert book.candidate("GPU-a", 0.0) is None
    book.measure([look((100, 4 * GIB))], {})
    assert book.quarantined_bytes("GPU-a", "a", 0.0) == 4 * GIB
    assert book.quarantined_bytes("GPU-a", "a", 60.0) is None
    assert book.tenants("GPU-a") == []


def test_a_lost_card_counts_from_when_it_was_last_seen() -> None:
    gone = msgspec.structs.replace(look(problem="off the bus", at=10.0), lost=True)
    assert book_of(gone).lost(40.5) == {"GPU-a"}
    book = book_of(look(at=5.0))
    book.measure([gone], {})
    assert (book.lost(35.0), book.lost(35.5)) == (frozenset(), {"GPU-a"})
    book.measure([look(at=36.0)], {})
    assert book.lost(100.0) == frozenset()
