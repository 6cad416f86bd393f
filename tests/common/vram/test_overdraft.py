from __future__ import annotations

import pytest

from common.vram.amount import GIB, MIB
from common.vram.card_book import CardBook
from common.vram.cards import CardSample, ProcessId, ProcessUse
from common.vram.ledger import Account, Claim, Holding, account
from common.vram.overdraft import may_be, overdrawn

TOTAL = 24 * GIB


def card(held: int, problem: str = "", at: float = 0.0) -> CardSample:
    return CardSample(
        host="mainpc",
        index=0,
        uuid="GPU-a",
        name="card",
        total_bytes=TOTAL,
        free_bytes=TOTAL - held,
        used_bytes=held,
        processes=(ProcessUse(100, 1, "loader", held),) if held else (),
        problem=problem,
        sampled_at=at,
    )


def seen(held: int, leased: int = 6 * GIB) -> Account:
    return account(card(held), [Claim("a", leased, ProcessId(100, 1), 0)], {})


@pytest.mark.parametrize(
    ("before", "now", "over"),
    [(9, 9, True), (6, 9, False), (9, 6, False), (6, 6, False)],
    ids=["twice", "once", "no more", "never"],
)
def test_who_holds_too_much_in_two_looks_in_a_row_is_overdrawn(before: int, now: int, over: bool) -> None:
    found = list(overdrawn(seen(before * GIB), seen(now * GIB), 0.05))
    assert found == ([("a", Holding(6 * GIB, now * GIB))] if over else [])


def test_a_lease_that_is_new_or_is_within_the_tolerance_is_not_overdrawn() -> None:
    assert list(overdrawn(account(card(9 * GIB), [], {}), seen(9 * GIB), 0.05)) == []
    assert list(overdrawn(seen(6 * GIB + 256 * MIB), seen(6 * GIB + 256 * MIB), 0.05)) == []
    assert list(overdrawn(seen(GIB, 0), seen(GIB, 0), 0.05)) == [("a", Holding(0, GIB))]


@pytest.mark.parametrize(
    ("before", "now", "doubtful"),
    [(0, 2, False), (2, 4, False), (2, 5, True), (0, 4, True), (9, 9, False), (6, 2, False)],
    ids=["begins", "half-way", "near its end", "fast", "stands still", "shrinks"],
)
def test_a_loader_may_be_over_once_another_step_like_its_last_would_be(before: int, now: int, doubtful: bool) -> None:
    assert may_be(seen(before * GIB), seen(now * GIB)) is doubtful


@pytest.mark.parametrize(
    ("apart_s", "doubtful"),
    [(0.002, True), (0.0, True), (0.25, False), (0.5, False), (30.0, False)],
    ids=["waited for", "at once", "twice as fast", "as ever", "a driver that hung"],
)
def test_looks_that_follow_closely_show_how_fast_a_loader_grows(apart_s: float, doubtful: bool) -> None:
    assert may_be(seen(4 * GIB), seen(4 * GIB + 50 * MIB), apart_s) is doubtful


def test_the_book_knows_how_far_apart_its_looks_are() -> None:
    book = CardBook()
    book.measure([card(0)], {})
    book.put("GPU-a", Claim("a", 6 * GIB, ProcessId(100, 1), 0))
    book.measure([card(4 * GIB, at=7.0)], {})
    book.measure([card(4 * GIB, "it does not answer", at=7.001)], {})
    book.measure([card(4 * GIB + 50 * MIB, at=7.002)], {})
    assert book.doubtful("GPU-a")
    book.measure([card(4 * GIB + 100 * MIB, at=7.502)], {})
    assert not book.doubtful("GPU-a")


def test_what_was_never_looked_at_before_may_have_taken_all_since_it_was_leased() -> None:
    assert may_be(None, seen(4 * GIB))
    assert not may_be(None, seen(GIB))
    assert not may_be(None, seen(0))


def test_the_book_says_on_which_card_that_is_so() -> None:
    book = CardBook()
    book.measure([card(0)], {})
    book.put("GPU-a", Claim("a", 6 * GIB, ProcessId(100, 1), 0))
    book.measure([card(5 * GIB)], {})
    assert book.doubtful("GPU-a")
    book.measure([card(5 * GIB)], {})
    assert not book.doubtful("GPU-a")
    book.measure([card(0, "it does not answer")], {})
    assert not book.doubtful("GPU-a")
