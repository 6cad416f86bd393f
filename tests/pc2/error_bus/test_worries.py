from __future__ import annotations

from pc2.error_bus.worries import TOLD_S, Worries


def look(worries: Worries, count: int, now: float) -> dict[str, str]:
    return worries.look({"lost": (count, "{more} lost")}, now)


def test_a_count_that_rose_is_told_until_it_has_stood_still_for_a_while() -> None:
    worries = Worries()
    assert look(worries, 0, 1) == {}
    assert look(worries, 2, 10) == {"lost": "2 lost"}
    assert look(worries, 5, 20) == {"lost": "5 lost"}
    assert look(worries, 5, 19 + TOLD_S) == {"lost": "5 lost"}
    assert look(worries, 5, 20 + TOLD_S) == {}
    assert look(worries, 6, 21 + TOLD_S) == {"lost": "1 lost"}
