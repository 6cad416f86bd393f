from __future__ import annotations

from common.api.basic import Stats, VerbStats
from pc2.observability_hub.work import FAILING_LEAST, STRETCH_S, STUCK_S, Work


def verb(count: int = 0, errors: int = 0, in_flight: int = 0, p99_ms: float = 1.0, last_error: str = "") -> VerbStats:
    return VerbStats(
        count=count, errors=errors, in_flight=in_flight, p50_ms=1, p95_ms=1, p99_ms=p99_ms, last_error=last_error
    )


def stats(told: VerbStats, boot: str = "boot-1") -> Stats:
    return Stats(service="s", boot=boot, uptime=1, verbs={"do": told})


def problem_after(*told: tuple[float, VerbStats], waiting: tuple[str, ...] = ()) -> str:
    work = Work()
    for at, one in told:
        work.take(stats(one), at)
    return work.problem(waiting, told[-1][0])


def test_calls_that_never_end_while_it_answers_are_stuck_work() -> None:
    held = verb(count=5, in_flight=3)
    assert problem_after((0, held), (STUCK_S - 1, held)) == ""
    assert problem_after((0, held), (STUCK_S, held)) == "do is stuck: 3 calls under way and none ended for 60 s"


def test_a_verb_that_makes_progress_or_has_nothing_to_do_is_not_stuck() -> None:
    assert problem_after((0, verb(5, in_flight=3)), (50, verb(6, in_flight=3)), (100, verb(6, in_flight=3))) == ""
    assert problem_after((0, verb(5)), (STUCK_S, verb(5)), (STUCK_S * 2, verb(5, in_flight=1))) == ""


def test_a_verb_whose_callers_wait_may_take_for_ever_and_a_long_one_gets_longer() -> None:
    held = verb(count=5, in_flight=3)
    assert problem_after((0, held), (500, held), waiting=("do",)) == ""
    long = verb(count=5, in_flight=3, p99_ms=10_000)
    assert problem_after((0, long), (150, long)) == ""
    assert problem_after((0, long), (200, long)) != ""


def test_a_verb_most_of_whose_calls_fail_by_its_own_fault_is_told() -> None:
    bad = verb(20, errors=FAILING_LEAST + 2, last_error="internal: a bug")
    told = problem_after((0, verb()), (5, bad))
    assert told == "do fails: 12 of 20 calls in 5 s, the last with internal: a bug"


def test_what_is_behind_a_link_that_is_down_is_not_the_fault_of_who_says_so() -> None:
    away = verb(40, errors=40, last_error="unavailable: reader is on pc2, which this host has no way to")
    assert problem_after((0, verb()), (5, away)) == ""


def test_callers_mistakes_few_errors_and_old_ones_are_no_trend() -> None:
    assert problem_after((0, verb()), (5, verb(20, errors=20, last_error="bad_request: no"))) == ""
    assert problem_after((0, verb()), (5, verb(200, errors=20, last_error="internal: no"))) == ""
    assert problem_after((0, verb()), (5, verb(2, errors=2, last_error="internal: no"))) == ""
    bad = verb(20, errors=20, last_error="internal: no")
    assert problem_after((0, verb()), (STRETCH_S, bad), (STRETCH_S + 5, bad)) != ""
    assert problem_after((0, verb()), (STRETCH_S, bad), (2 * STRETCH_S, bad)) == ""


def test_figures_have_rates_and_leave_out_what_was_never_called() -> None:
    work = Work()
    work.take(Stats(service="s", boot="b", uptime=1, verbs={"do": verb(10), "idle": verb()}), 10.0)
    work.take(Stats(service="s", boot="b", uptime=1, verbs={"do": verb(30, 4), "idle": verb()}), 15.0)
    (shown,) = work.figures()
    assert (shown.verb, shown.count, shown.per_s, shown.errors_per_s) == ("do", 30, 4.0, 0.8)
    assert list(work.told()) == ["do"]
    work.take(Stats(service="s", boot="b", uptime=1, verbs={"do": verb(31, 4)}), 15.0)
    assert work.figures()[0].per_s == 4.0


def test_another_life_begins_anew() -> None:
    work = Work()
    held = verb(5, in_flight=2)
    work.take(stats(held), 0.0)
    work.take(stats(held, "boot-2"), STUCK_S)
    assert work.problem((), STUCK_S) == ""
    work.take(stats(verb(3, in_flight=2), "boot-2"), 2 * STUCK_S)
    assert work.problem((), 2 * STUCK_S) == ""


def test_a_verb_that_is_not_told_of_any_more_is_forgotten() -> None:
    work = Work()
    for number in range(3):
        work.take(Stats(service="s", boot="b", uptime=1, verbs={f"do{number}": verb(1)}), float(number))
    assert list(work.told()) == ["do2"]
