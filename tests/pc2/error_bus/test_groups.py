from __future__ import annotations

import pytest

from common.errors import Conflict
from common.ids import MAX_WIRE_INT
from pc2.error_bus.groups import AGENTS, HOSTS, NEXT, ONGOING_AFTER_S, ONGOING_COUNT, SAMPLE_EVERY_S, Group, Move, Row
from pc2.error_bus.occurrence import Moment
from pc2.error_bus.samples import FIRST, NEWEST
from tests.pc2.error_bus.desk import HIDING, START, report


def group() -> Group:
    return Group(Row(group_id="1:a", grouped_by="message", error_type="E", message="m", owner="reader"))


def moment(passed_s: float) -> Moment:
    return Moment(START + passed_s, passed_s)


def seen(one: Group, passed_s: float, arrived_s: float | None = None, **fields: object) -> bool:
    now = moment(passed_s if arrived_s is None else arrived_s)
    return one.count(report(**fields), "mainpc", moment(passed_s), now)  # type: ignore[arg-type]


def test_a_group_is_new_for_its_first_minute_and_then_ongoing() -> None:
    one = group()
    assert not seen(one, 0)
    assert not seen(one, ONGOING_AFTER_S - 1)
    assert one.row.state == "new"
    assert seen(one, ONGOING_AFTER_S)
    assert one.row.state == "ongoing"
    assert not seen(one, 10_000)


def test_many_at_once_are_ongoing_at_once() -> None:
    one = group()
    assert seen(one, 0, count=ONGOING_COUNT)
    assert (one.row.state, one.row.count) == ("ongoing", ONGOING_COUNT)


def test_what_occurs_after_its_resolution_regresses_once() -> None:
    one = group()
    seen(one, 0)
    assert one.resolve("local@mainpc", "mended", moment(10))
    assert (one.row.state, one.row.resolved_at, one.row.resolved_by) == ("resolved", START + 10, "local@mainpc")
    assert seen(one, 11)
    assert (one.row.state, one.row.regressions) == ("regressed", 1)
    assert not seen(one, 12)
    assert one.resolve("local@pc2", "again", moment(20))
    assert (one.row.resolved_by, one.row.note) == ("local@pc2", "again")


def test_what_occurred_before_its_resolution_and_arrives_after_it_counts_and_changes_no_state() -> None:
    one = group()
    seen(one, 0)
    one.resolve("me", "", moment(10))
    assert not seen(one, 9, arrived_s=3_600)
    assert (one.row.state, one.row.count) == ("resolved", 2)


def test_resolving_what_is_resolved_changes_nothing() -> None:
    one = group()
    one.resolve("me", "first", moment(10))
    assert not one.resolve("you", "second", moment(20))
    assert (one.row.resolved_by, one.row.note, one.row.resolved_at) == ("me", "first", START + 10)


def test_a_clock_that_steps_back_hides_no_regression() -> None:
    one = group()
    seen(one, 0)
    one.resolve("me", "", moment(10))
    now = Moment(START - 86_400, 11.0)
    assert one.count(report(), "mainpc", now, now)
    assert one.row.state == "regressed"
    assert one.row.first_at <= one.row.last_at <= now.wall


def test_a_clock_that_steps_forward_makes_no_regression_and_its_times_go_with_it() -> None:
    one = group()
    seen(one, 0)
    one.resolve("me", "", moment(10))
    ahead = Moment(START + 10**9, 20.0)
    assert not one.count(report(), "mainpc", ahead.ago(15), ahead)
    assert one.row.last_at > START + 10**8
    now = moment(30)
    one.count(report(), "mainpc", now, now)
    assert one.row.last_at == now.wall


def test_an_older_occurrence_moves_the_first_time_and_not_the_last() -> None:
    one = group()
    seen(one, 50)
    seen(one, 20, arrived_s=55)
    assert (one.row.first_at, one.row.last_at) == (START + 20, START + 50)


def test_an_illegal_move_raises_with_the_groups_story() -> None:
    one = group()
    seen(one, 0)
    with pytest.raises(Conflict, match="group 1:a is new, seen 1 times: it cannot return"):
        one._move(Move.RETURN)
    assert {state for state, _ in NEXT} == {"new", "ongoing", "resolved", "regressed"}


def test_severity_is_the_highest_told() -> None:
    one = group()
    for severity in ("warning", "critical", "error"):
        seen(one, 0, severity=severity)
    assert one.row.severity == "critical"


def test_counts_by_agent_and_host_have_a_tail() -> None:
    one = group()
    for n in range(AGENTS + 10):
        one.count(report(agent=f"a{n}", count=2), f"h{n}", moment(0), moment(0))
    one.count(report(agent="a0"), "h0", moment(0), moment(0))
    row = one.row
    assert (len(row.agents), row.agents["a0"], row.other_agents) == (AGENTS, 3, 20)
    assert (len(row.hosts), row.hosts["h0"], row.other_hosts) == (HOSTS, 3, 2 * (AGENTS + 10 - HOSTS))
    assert row.count == sum(row.agents.values()) + row.other_agents == sum(row.hosts.values()) + row.other_hosts


def test_a_counter_ends_where_json_readers_do() -> None:
    one = group()
    seen(one, 0, count=MAX_WIRE_INT)
    seen(one, 0, count=MAX_WIRE_INT)
    assert one.row.count == one.row.agents["reader"] == MAX_WIRE_INT


def sampled(one: Group, passed_s: float, message: str) -> bool:
    now = moment(passed_s)
    return one.sample(report(message=message), "mainpc", now, now, HIDING) is not None


def test_the_first_and_the_newest_are_sampled_and_a_storm_seldom() -> None:
    one = group()
    assert [sampled(one, 0, str(n)) for n in range(10)] == [True] * FIRST + [False] * 7
    for n in range(10, 20):
        assert sampled(one, n * SAMPLE_EVERY_S, str(n))
        assert not sampled(one, n * SAMPLE_EVERY_S + 1, "passed over")
    seen(one, 0)
    told = [sample.message for sample in one.detail().samples]
    assert told == [*map(str, range(FIRST)), *map(str, range(20 - NEWEST, 20))]


def test_characters_held_are_those_of_the_samples_kept() -> None:
    one = group()
    empty = one.chars
    for n in range(20):
        sampled(one, n * SAMPLE_EVERY_S, "m" * n)
    assert one.chars == empty + sum(sample.chars() for sample in one.samples.values())


def test_a_group_is_told_with_all_of_it() -> None:
    one = group()
    seen(one, 0)
    shown = one.shown()
    assert (shown.group_id, shown.count, shown.agents, shown.hosts) == ("1:a", 1, ["reader"], ["mainpc"])
    assert (shown.first_seen, shown.last_seen, shown.resolved_at) == (*["2027-01-15T08:00:00.000Z"] * 2, "")
    one.resolve("me", "", moment(1))
    assert one.detail().resolved_at == "2027-01-15T08:00:01.000Z"
    assert (one.detail().by_agent, one.detail().by_host) == ({"reader": 1}, {"mainpc": 1})
