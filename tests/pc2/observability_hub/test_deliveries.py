from __future__ import annotations

from pc2.observability_hub.deliveries import MAX_SENDERS, Delivered, Deliveries


def test_a_batch_counts_once_and_one_before_it_not_at_all() -> None:
    known = Deliveries()
    told = [known.repeated("a", 1, seq) for seq in (1, 2, 2, 1, 3)]
    assert told == [False, False, True, True, False]
    assert known.repeated("b", 1, 1) is False


def test_a_spool_that_began_anew_numbers_anew_also_after_its_clock_was_set_back() -> None:
    known = Deliveries()
    known.repeated("a", 5, 9)
    assert [known.repeated("a", epoch, 1) for epoch in (6, 4)] == [False, False]
    assert [known.repeated("a", epoch, 1) for epoch in (6, 4)] == [True, True]
    assert [known.repeated("a", 5, seq) for seq in (9, 10)] == [True, False]


def test_what_changed_is_told_once_and_an_earlier_life_is_remembered() -> None:
    known = Deliveries()
    known.repeated("a", 1, 1)
    known.repeated("a", 1, 2)
    assert known.changed() == [Delivered("a", 1, 2)]
    assert known.changed() == []
    known.load([Delivered("a", 1, 9), Delivered("b", 1, 5)])
    assert known.repeated("a", 1, 3) is False
    assert known.repeated("b", 1, 5) is True


def test_the_sender_unheard_for_longest_is_forgotten_first() -> None:
    known = Deliveries()
    for number in range(MAX_SENDERS):
        known.repeated(f"s{number}", 1, 5)
    known.repeated("s0", 1, 6)
    known.repeated("new", 1, 1)
    assert known.repeated("s0", 1, 6) is True
    assert known.repeated("s1", 1, 5) is False
