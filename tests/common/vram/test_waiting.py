from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from common.vram.amount import GIB
from common.vram.placement import Candidate, Wish
from common.vram.waiting import LeaseQueue, QueuePolicy, Waiter


def card(host: str, free: float, most: float = 24, problem: str = "") -> Candidate:
    return Candidate(host, 0, f"GPU-{host}", int(free * GIB), int(most * GIB), problem)


def waiter(
    ticket: str, need: float = 10, priority: int = 50, at: float = 0.0, until: float = 1_000.0, host: str = ""
) -> Waiter:
    return Waiter(ticket, Wish(f"model-{ticket}", int(need * GIB), host), priority, at, until)


def queue(*waiters: Waiter) -> LeaseQueue:
    line = LeaseQueue()
    for each in waiters:
        line.add(each)
    return line


def starts(line: LeaseQueue, cards: list[Candidate], now: float = 0.0) -> list[tuple[str, str]]:
    return [(each.ticket, chosen.host) for each, chosen in line.startable(cards, now)]


def test_the_line_is_by_priority_and_then_by_time() -> None:
    line = queue(waiter("b", at=1.0), waiter("a", at=0.0), waiter("urgent", priority=90, at=1.0))
    assert [line.position(ticket) for ticket in ("urgent", "a", "b")] == [1, 2, 3]
    assert len(line) == 3
    assert "a" in line


def test_those_who_are_next_are_known() -> None:
    line = queue(waiter("b", at=1.0), waiter("a", at=0.0), waiter("urgent", priority=90, at=1.0))
    assert line.first(2) == ["urgent", "a"]
    assert line.first(9) == ["urgent", "a", "b"]


def test_waiting_lifts_a_request_above_newcomers_of_higher_priority() -> None:
    line = queue(waiter("old", priority=0, at=0.0), waiter("new", priority=50, at=99.0))
    assert line.position("new") == 1
    line.add(waiter("later", priority=50, at=101.0))
    assert line.position("old") == 2
    assert line.position("later") == 3


def test_one_that_cannot_start_holds_up_nobody() -> None:
    line = queue(waiter("big", 20, priority=90), waiter("small", 5), waiter("other", 8, at=1.0))
    assert starts(line, [card("mainpc", 6), card("pc2", 11, 12)]) == [("small", "mainpc"), ("other", "pc2")]


def test_who_waits_starts_on_no_host_that_cannot_take_it_and_keeps_no_card_there() -> None:
    line = queue(msgspec.structs.replace(waiter("a"), barred={"pc2": "it lacks a file"}))
    cards = [card("mainpc", 2), card("pc2", 12)]
    assert starts(line, cards, 60.0) == []
    assert line.kept_from(50, 60.0) == {"GPU-mainpc"}
    (news,) = line.news(cards, {}, 60.0)
    assert [verdict.reason for verdict in news.choice.verdicts] == ["2.0 GiB free, 10.0 GiB needed", "it lacks a file"]
    assert starts(line, [card("mainpc", 12), card("pc2", 12)], 61.0) == [("a", "mainpc")]


def test_each_start_lowers_what_those_behind_find() -> None:
    line = queue(waiter("a", 10), waiter("b", 10), waiter("c", 4))
    assert starts(line, [card("mainpc", 15)]) == [("a", "mainpc"), ("c", "mainpc")]


def test_who_starts_alone_on_a_card_starts_nobody_else_there() -> None:
    alone = waiter("alone", 2)
    alone = msgspec.structs.replace(alone, wish=msgspec.structs.replace(alone.wish, exclusive=True))
    assert starts(queue(alone, waiter("next", 2)), [card("mainpc", 20)]) == [("alone", "mainpc")]
    assert starts(queue(waiter("a", 2), alone), [card("mainpc", 20)]) == [("a", "mainpc")]


def test_those_who_start_pinned_stay_together_within_what_may_be_pinned() -> None:
    pinned = [waiter(ticket, 10) for ticket in "ab"]
    pinned = [msgspec.structs.replace(each, wish=msgspec.structs.replace(each.wish, pinned=True)) for each in pinned]
    assert starts(queue(*pinned, waiter("plain", 10)), [card("mainpc", 24)]) == [("a", "mainpc"), ("plain", "mainpc")]


def test_a_head_that_has_waited_a_minute_keeps_the_card_nearest_to_holding_it() -> None:
    line = queue(waiter("big", 20), waiter("small", 2, at=1.0))
    cards = [card("mainpc", 12), card("pc2", 15)]
    assert starts(line, cards, 59.0) == [("small", "mainpc")]
    assert starts(line, cards, 60.0) == [("small", "mainpc")]
    assert line.kept_from(50, 60.0) == {"GPU-pc2"}
    assert starts(line, [card("mainpc", 1), card("pc2", 15)], 60.0) == []


def test_who_can_start_nowhere_by_now_keeps_no_card_and_takes_nothing_from_those_behind() -> None:
    line = queue(waiter("short", 10), waiter("next", 10, at=1.0))
    started = line.startable([card("mainpc", 12)], 60.0, {"short": ()})
    assert [(each.ticket, where.host) for each, where in started] == [("next", "mainpc")]
    assert line.kept_from(0, 60.0) == frozenset()
    assert starts(line, [card("mainpc", 12)], 60.0) == [("short", "mainpc")]


def test_who_outranks_the_head_may_take_the_card_it_keeps() -> None:
    line = queue(waiter("big", 20))
    line.startable([card("mainpc", 12)], 60.0)
    assert line.kept_from(50, 60.0) == {"GPU-mainpc"}
    assert line.kept_from(100, 60.0) == frozenset()
    line.add(waiter("urgent", 2, priority=100, at=60.0))
    assert starts(line, [card("mainpc", 12)], 60.0) == [("urgent", "mainpc")]


def test_a_head_keeps_the_same_card_while_it_is_its_head() -> None:
    line = queue(waiter("big", 20))
    line.startable([card("mainpc", 12), card("pc2", 10)], 60.0)
    line.startable([card("mainpc", 11), card("pc2", 15)], 61.0)
    assert line.kept_from(50, 61.0) == {"GPU-mainpc"}
    line.startable([card("mainpc", 0, problem="gone"), card("pc2", 15)], 62.0)
    assert line.kept_from(50, 62.0) == {"GPU-pc2"}


def test_heads_of_different_cards_keep_one_each() -> None:
    line = queue(waiter("a", 20, host="mainpc"), waiter("b", 20, host="pc2", at=1.0), waiter("c", 1, at=2.0))
    assert starts(line, [card("mainpc", 12), card("pc2", 12)], 70.0) == []
    assert line.kept_from(50, 70.0) == {"GPU-mainpc", "GPU-pc2"}


def test_a_waiter_that_could_never_fit_a_card_does_not_keep_it() -> None:
    line = queue(waiter("big", 20), waiter("small", 2, at=1.0))
    assert starts(line, [card("pc2", 4, 12)], 100.0) == [("small", "pc2")]


def test_what_is_removed_keeps_nothing_and_removing_twice_is_no_matter() -> None:
    line = queue(waiter("big", 20))
    line.startable([card("mainpc", 12)], 60.0)
    line.remove("big")
    line.remove("big")
    assert len(line) == 0
    assert line.kept_from(50, 60.0) == frozenset()


def test_adding_again_gives_a_new_deadline_and_the_same_place() -> None:
    line = queue(waiter("a", until=5.0), waiter("b", at=1.0))
    line.add(waiter("a", until=50.0))
    assert line.position("a") == 1
    assert line.overdue(10.0) == []


def test_those_past_their_deadline_are_named_in_line() -> None:
    line = queue(waiter("a", until=5.0), waiter("b", until=9.0, at=1.0), waiter("c", until=5.0, priority=60))
    assert [each.ticket for each in line.overdue(5.0)] == ["c", "a"]


def test_only_those_whose_place_or_reason_changed_are_told() -> None:
    line = queue(waiter("a", 20), waiter("b", 20, at=1.0))
    cards = [card("mainpc", 3.2)]
    first = line.news(cards, {}, 4.0)
    assert [(each.waiter.ticket, each.progress.position, each.progress.waited_s) for each in first] == [
        ("a", 1, 4.0),
        ("b", 2, 3.0),
    ]
    assert first[0].progress.reason == "model-a needs 20.0 GiB; 3.2 GiB free on mainpc:0"
    assert (first[0].progress.need_bytes, first[0].progress.free_bytes) == (20 * GIB, int(3.2 * GIB))
    assert line.news(cards, {}, 5.0) == []
    line.remove("a")
    assert [(each.waiter.ticket, each.progress.position) for each in line.news(cards, {}, 6.0)] == [("b", 1)]
    assert [each.waiter.ticket for each in line.news([card("mainpc", 5)], {}, 7.0)] == ["b"]


def test_one_who_waits_behind_a_kept_card_is_told_so() -> None:
    line = queue(waiter("big", 20), waiter("small", 2, at=1.0))
    cards = [card("mainpc", 12)]
    assert line.startable(cards, 60.0) == []
    told = {each.waiter.ticket: each.progress.reason for each in line.news(cards, {}, 60.0)}
    assert "kept for a request that has waited longer" in told["small"]
    assert "kept" not in told["big"]


def test_a_missing_host_is_given_as_the_reason() -> None:
    line = queue(waiter("a", 20))
    assert line.news([], {"pc2": "link down"}, 0.0)[0].progress.reason == "model-a needs 20.0 GiB; pc2: link down"


def test_no_request_starves_under_a_stream_of_small_ones() -> None:
    """A card of 24 GiB, always full of loads of 2 GiB that last 20 s; one asks for 20 GiB."""
    line = LeaseQueue(QueuePolicy())
    line.add(waiter("big", 20, until=10_000.0))
    running: list[tuple[float, float]] = []
    for second in range(1, 400):
        running = [(end, size) for end, size in running if end > second]
        line.add(waiter(f"small-{second}", 2, at=float(second), until=10_000.0))
        free = 24 - sum(size for _, size in running)
        for started, _ in line.startable([card("mainpc", free)], float(second)):
            if started.ticket == "big":
                assert second <= 60 + 21
                return
            line.remove(started.ticket)
            running.append((second + 20, 2))
    raise AssertionError("the big request starved")


tickets = st.lists(
    st.tuples(st.floats(0, 30), st.integers(0, 100), st.floats(0, 100), st.sampled_from(["", "mainpc", "pc2"])),
    max_size=8,
)


@given(tickets, st.floats(0, 24), st.floats(0, 12), st.floats(100, 300))
def test_no_card_is_promised_twice_and_the_order_never_depends_on_arrival(
    asked: list[tuple[float, int, float, str]], big: float, small: float, now: float
) -> None:
    waiters = [waiter(f"w{n}", need, rank, at, host=host) for n, (need, rank, at, host) in enumerate(asked)]
    cards = [card("mainpc", big), card("pc2", small, 12)]
    line, backwards = queue(*waiters), queue(*reversed(waiters))
    found = line.startable(cards, now)
    assert found == backwards.startable(cards, now)
    for each in cards:
        promised = sum(one.wish.need_bytes for one, chosen in found if chosen.uuid == each.uuid)
        assert promised <= each.grantable_bytes
    assert sorted(line.position(each.ticket) for each in waiters) == list(range(1, len(waiters) + 1))


def test_who_had_room_made_for_it_starts_there_whoever_keeps_the_card() -> None:
    line = queue(waiter("old", 20), waiter("made", 10, at=50.0), waiter("other", 4, at=51.0))
    shown, alone = [card("mainpc", 2)], [card("mainpc", 12)]
    found = line.startable(shown, 60.0, {"made": alone})
    assert [each.ticket for each, _ in found] == ["made"]
    assert line.kept_from(50, 100.0) == {"GPU-mainpc"}


def test_nobody_finds_more_than_what_those_with_room_leave() -> None:
    line = queue(waiter("a", 10), waiter("b", 10, at=1.0), waiter("c", 2, at=2.0))
    shown = [card("mainpc", 3)]
    found = line.startable(shown, 5.0, {"a": [card("mainpc", 13)], "b": [card("mainpc", 13)]})
    assert [each.ticket for each, _ in found] == ["a", "c"]


def test_a_head_that_wants_several_cards_keeps_as_many_of_one_host() -> None:
    cards = [Candidate("mainpc", n, f"GPU-{n}", n * GIB, 24 * GIB) for n in range(3)]
    line = LeaseQueue()
    line.add(Waiter("both", Wish("m", 20 * GIB, cards=2), 50, 0.0, 1_000.0))
    assert line.startable(cards, 60.0) == []
    assert line.kept_from(50, 60.0) == {"GPU-1", "GPU-2"}
    line.add(Waiter("all", Wish("m", 20 * GIB, cards=4), 90, 0.0, 1_000.0))
    line.startable(cards, 60.0)
    assert line.kept_from(50, 60.0) == frozenset()


def test_a_start_on_several_cards_lowers_them_all() -> None:
    cards = [Candidate("mainpc", n, f"GPU-{n}", 10 * GIB, 24 * GIB) for n in range(2)]
    line = LeaseQueue()
    line.add(Waiter("both", Wish("m", 8 * GIB, cards=2), 50, 0.0, 1_000.0))
    line.add(Waiter("one", Wish("m", 4 * GIB), 50, 1.0, 1_000.0))
    line.add(Waiter("alone", Wish("m", GIB, exclusive=True), 50, 1.0, 1_000.0))
    assert [each.ticket for each, _ in line.startable(cards, 5.0)] == ["both"]
