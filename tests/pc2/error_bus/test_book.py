from __future__ import annotations

import pytest

from common.api.error_bus import ListErrorGroups
from common.errors import BadRequest, NotFound, StorageUnavailable
from pc2.error_bus.book import ErrorBook, Limits
from pc2.error_bus.fingerprint import fingerprint
from pc2.error_bus.groups import ONGOING_AFTER_S, ONGOING_COUNT
from tests.pc2.error_bus.desk import HIDING, Desk, report


def test_a_million_repeats_cost_one_group_and_a_counter() -> None:
    desk = Desk()
    for first in range(0, 1_000_000, 100_000):
        desk.batch([report(message=f"no room for {n}", count=1_000) for n in range(100)], first_seq=1 + first // 1_000)
    assert len(desk.book) == 1
    (group,) = desk.book.groups(ListErrorGroups())[0]
    assert (group.count, group.message, group.state) == (1_000_000, "no room for <n>", "ongoing")
    assert desk.changes() == ["new", "ongoing"]
    assert {table: len(rows) for table, rows in desk.store.tables.items()} == {
        "error_groups": 1, "error_samples": 3, "error_senders": 1,
    }  # fmt: skip


def test_a_batch_writes_a_groups_row_once() -> None:
    desk = Desk()
    desk.batch([report() for _ in range(500)])
    desk.batch([report() for _ in range(500)], first_seq=501)
    group_id = fingerprint(report()).group_id
    assert desk.written == [f"error_groups:{group_id}", "error_senders:1/mainpc/mainpc/reader"]


def test_a_batch_that_is_sent_again_counts_once_and_what_is_behind_it_counts() -> None:
    desk = Desk()
    desk.batch([report(), report()])
    taken = desk.batch([report(), report(), report("KeyError")])
    assert (taken.seq, taken.taken, taken.repeated) == (3, 1, 2)
    again = desk.batch([report(), report()])
    assert (again.seq, again.taken, again.repeated) == (3, 0, 2)
    assert desk.book.figures.repeated == 4
    assert desk.book.figures.errors == 3


def test_an_empty_batch_tells_where_the_sender_stands() -> None:
    desk = Desk()
    assert desk.batch([]).seq == 0
    desk.batch([report()], first_seq=7)
    assert desk.batch([], first_seq=8).seq == 7
    assert desk.batch([], epoch=2).seq == 0


def test_a_new_epoch_is_numbered_anew() -> None:
    desk = Desk()
    desk.batch([report()], first_seq=5)
    assert desk.batch([report()], first_seq=1, epoch=2).taken == 1
    assert desk.batch([report()], first_seq=5, epoch=1).taken == 0


def test_what_a_sender_lost_is_counted_once() -> None:
    desk = Desk()
    desk.batch([report()], first_seq=5, lost=4)
    desk.batch([report(), report()], first_seq=5, lost=4)
    desk.batch([report()], first_seq=5, lost=4)
    assert desk.book.figures.lost == 4


def test_the_ages_in_a_batch_are_told_by_the_senders_clock() -> None:
    desk = Desk()
    desk.batch([report(occurred_at=desk.ago(-3_600))], sent_at=desk.ago(-3_630))
    (group,) = desk.book.groups(ListErrorGroups())[0]
    assert group.first_seen == group.last_seen == desk.ago(30)


def test_a_batch_with_one_bad_time_is_refused_whole() -> None:
    desk = Desk()
    with pytest.raises(BadRequest, match="no RFC 3339 time"):
        desk.batch([report(), report(occurred_at="once")])
    assert len(desk.book) == 0
    assert desk.book.settle() == ([], [])
    assert desk.batch([report(), report()]).taken == 2


def test_a_lone_report_counts_once_for_its_id_also_after_a_restart() -> None:
    desk = Desk()
    first = desk.take(report_id="r1")
    assert not first.repeated
    desk.restart()
    again = desk.take(report_id="r1")
    assert (again.repeated, again.group_id, again.state) == (True, first.group_id, "new")
    assert not desk.take(report_id="r1", agent="writer").repeated
    assert desk.batch([report(report_id="r1"), report(report_id="r2")]).repeated == 1
    assert desk.book.detail(first.group_id).count == 3


def test_the_id_of_a_report_whose_group_is_forgotten_is_still_known() -> None:
    desk = Desk(Limits(groups=1))
    first = desk.take(report_id="r1")
    desk.take("KeyError")
    again = desk.take(report_id="r1")
    assert (again.repeated, again.group_id, again.state) == (True, first.group_id, "forgotten")


def test_no_host_can_say_that_anothers_reports_were_counted() -> None:
    desk = Desk()
    desk.batch([report()], first_seq=1_000_000, caller_host="pc2")
    desk.take(report_id="r1", caller_host="pc2")
    assert desk.batch([report()]).taken == 1
    assert not desk.take(report_id="r1").repeated


def test_every_change_of_state_is_told() -> None:
    desk = Desk()
    group_id = desk.take().group_id
    desk.passes(ONGOING_AFTER_S)
    desk.take()
    desk.passes(1)
    desk.resolve(group_id, "with hunter2")
    desk.resolve(group_id)
    desk.passes(1)
    desk.take()
    desk.take()
    assert [event.group.state for event in desk.events] == ["new", "ongoing", "resolved", "regressed"]
    assert desk.changes() == ["new", "ongoing", "resolved", "regressed"]
    group = desk.book.detail(group_id)
    assert (group.resolved_by, group.note, group.regressions) == ("local@mainpc", "with [hidden]", 1)


def test_a_group_that_begins_with_many_is_new_and_ongoing() -> None:
    desk = Desk()
    desk.take(count=ONGOING_COUNT)
    assert desk.changes() == ["new", "ongoing"]


def test_a_restart_finds_everything_again_and_regroups_nothing() -> None:
    desk = Desk()
    group_id = desk.take(details={"a": 1}).group_id
    for n in range(20):
        desk.passes(11)
        desk.take(message=f"no room {n}", agent=f"a{n % 3}")
    other = desk.take().group_id
    desk.resolve(other)
    before = [desk.book.detail(name) for name in desk.listed()]
    desk.restart()
    assert [desk.book.detail(name) for name in desk.listed()] == before
    assert desk.take().group_id == other == group_id
    assert sum(desk.book.states.values()) == 2


def test_a_resolution_is_compared_with_occurrences_of_the_next_life_too() -> None:
    desk = Desk()
    group_id = desk.take().group_id
    desk.passes(10)
    desk.resolve(group_id)
    desk.wall, desk.monotonic = desk.wall + 100, 3.0
    desk.restart()
    desk.take(occurred_at=desk.ago(101))
    assert desk.book.detail(group_id).state == "resolved"
    desk.take(occurred_at=desk.ago(99))
    assert desk.book.detail(group_id).state == "regressed"


def test_secrets_reach_no_row_and_no_event() -> None:
    desk = Desk()
    desk.take(
        "hunter2Error", "hunter2 is wrong", fingerprint="hunter2", details={"password": "hunter2"}, stack="hunter2"
    )
    kept = b"".join(value for rows in desk.store.tables.values() for value in rows.values())
    assert b"hunter2" not in kept
    assert "hunter2" not in str(desk.events)


def test_the_resolved_go_first_and_their_samples_with_them() -> None:
    desk = Desk(Limits(groups=2))
    first, second = desk.take("A").group_id, desk.take("B").group_id
    desk.resolve(second)
    third = desk.take("C").group_id
    assert set(desk.listed()) == {first, third}
    assert desk.changes() == ["new", "new", "resolved", "forgotten", "new"]
    assert desk.book.figures.forgotten == {("resolved",): 1, ("unresolved",): 0}
    assert {key.partition("/")[0] for key in desk.store.tables["error_samples"]} == {first, third}
    desk.restart()
    assert set(desk.listed()) == {first, third}


def test_a_forgotten_group_that_comes_back_has_its_old_name_and_counts_anew() -> None:
    desk = Desk(Limits(groups=1))
    first = desk.take("A").group_id
    desk.take("A")
    reports = [report("B"), report("A")]
    desk.batch(reports)
    assert desk.listed() == [first]
    assert desk.book.detail(first).count == 1
    desk.restart()
    assert desk.book.detail(first).count == 1
    assert len(desk.book.detail(first).samples) == 1


def test_what_is_held_is_bounded_in_characters_too() -> None:
    desk = Desk(Limits(chars=65_536))
    for n in range(50):
        desk.take("E" * n + "x", "m" * 2_000, stack="s" * 8_000)
        assert desk.book.chars <= 65_536
    assert 1 < len(desk.book) < 10
    chars = desk.book.chars
    desk.restart()
    assert desk.book.chars == chars


def test_a_late_report_of_a_resolved_group_may_be_its_last() -> None:
    desk = Desk(Limits(chars=65_536))
    group_id = desk.take("A", "m" * 2_000).group_id
    desk.passes(60)
    desk.resolve(group_id)
    for n in range(20):
        desk.passes(20)
        desk.take("B" + "x" * n, "m" * 2_000, stack="s" * 8_000)
        desk.take("A", "m" * 2_000, stack="s" * 8_000, occurred_at=desk.ago(desk.monotonic))
    assert sum(desk.book.states.values()) == len(desk.book)


def test_lists_are_filtered_newest_first_and_counted() -> None:
    desk = Desk()
    a = desk.take("A", severity="critical").group_id
    desk.passes(1)
    b = desk.take("B", agent="writer", host="pc2").group_id
    desk.passes(1)
    desk.resolve(a)
    assert desk.listed() == [b, a]
    assert desk.listed(limit=1) == [b]
    assert desk.book.groups(ListErrorGroups(limit=1))[1] == 2
    assert desk.listed(state="resolved") == desk.listed(severity="critical") == desk.listed(agent="reader") == [a]
    assert desk.listed(state="unresolved") == desk.listed(state="new") == desk.listed(host="pc2") == [b]
    assert desk.listed(error_type="A", severity="critical", state="resolved") == [a]
    assert desk.listed(error_type="A", severity="error") == desk.listed(error_type="C") == []


def test_what_is_not_there_is_not_found() -> None:
    desk = Desk()
    with pytest.raises(NotFound, match="no error group '1:x'"):
        desk.resolve("1:x")
    with pytest.raises(NotFound):
        desk.book.detail("1:x")


def test_a_group_whose_row_was_deleted_by_hand_is_gone_and_the_rest_stays() -> None:
    desk = Desk()
    gone, kept = desk.take("A").group_id, desk.take("B").group_id
    del desk.store.tables["error_groups"][gone]
    desk.restart()
    assert desk.listed() == [kept]


def test_what_cannot_be_read_is_not_half_loaded() -> None:
    desk = Desk()
    desk.take()
    desk.store.failure = StorageUnavailable("gone")
    book = ErrorBook(HIDING)
    with pytest.raises(StorageUnavailable):
        book.load(desk.store, desk.now)
    assert len(book) == 0
