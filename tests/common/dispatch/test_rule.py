from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from common.dispatch.rule import Candidate, Chosen, Nobody, Reason, Wait, Wish, choose
from common.resilience.breaker import State as Breaker


def agent(name: str = "a", **changes: object) -> Candidate:
    base = Candidate(name=name, host="mainpc", liveness="alive", in_flight=0, concurrency=4)
    return replace(base, **changes)  # type: ignore[arg-type]


HERE = Wish(host="mainpc")


def test_without_candidates_there_is_nobody() -> None:
    assert choose(HERE, [], 0.0) == Nobody()


def test_the_least_loaded_fraction_wins() -> None:
    assert choose(HERE, [agent("a", in_flight=2), agent("b", in_flight=3, concurrency=8)], 0.0) == Chosen("b")


def test_among_equals_the_proven_one_then_the_near_one_then_the_longest_unused_then_the_name() -> None:
    quiet, far = agent("a", liveness="unpromised"), agent("b", host="pc2")
    assert choose(HERE, [quiet, far], 0.0) == Chosen("b")
    assert choose(HERE, [far, agent("c")], 0.0) == Chosen("c")
    assert choose(HERE, [agent("c", last_used=7), agent("d", last_used=3)], 0.0) == Chosen("d")
    assert choose(HERE, [agent("d"), agent("c")], 0.0) == Chosen("c")


def test_an_idle_card_on_the_other_host_beats_a_line_at_this_one() -> None:
    assert choose(HERE, [agent("a", in_flight=1), agent("b", host="pc2")], 0.0) == Chosen("b")


def test_one_that_failed_this_wish_is_tried_last_but_tried() -> None:
    wish = Wish(host="mainpc", tried=frozenset({"a"}))
    assert choose(wish, [agent("a"), agent("b", in_flight=3)], 0.0) == Chosen("b")
    assert choose(wish, [agent("a")], 0.0) == Chosen("a")


def test_a_busy_healthy_agent_is_waited_for_rather_than_a_suspect_asked() -> None:
    answer = choose(HERE, [agent("a", in_flight=4), agent("b", liveness="suspect")], 0.0)
    assert answer == Wait(Reason.BUSY, "every agent is at its limit (4 at 1 in flight)")


def test_a_suspect_is_asked_when_the_healthy_ones_are_barred_or_absent() -> None:
    barred = agent("a", breaker=Breaker.OPEN, retry_at=5.0)
    assert choose(HERE, [barred, agent("b", liveness="suspect")], 0.0) == Chosen("b")
    assert choose(HERE, [agent("b", liveness="suspect")], 0.0) == Chosen("b")


def test_an_expired_agent_is_never_asked() -> None:
    gone = [agent(name, liveness="expired") for name in "dabc"]
    assert choose(HERE, gone, 0.0) == Wait(Reason.SILENT, "no sign of life from a, b, c and 1 more")


def test_an_open_breaker_bars_until_its_probe_is_due_and_then_takes_one() -> None:
    barred = agent("a", breaker=Breaker.OPEN, retry_at=5.0)
    assert choose(HERE, [barred, agent("b", liveness="expired")], 4.9) == Wait(
        Reason.BARRED, "the breaker is open for a, b"
    )
    assert choose(HERE, [barred], 5.0) == Chosen("a")
    probing = agent("a", breaker=Breaker.HALF_OPEN, in_flight=1)
    assert isinstance(choose(HERE, [probing], 9.0), Wait)


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from("abcdefgh"),
        host=st.sampled_from(["mainpc", "pc2"]),
        liveness=st.sampled_from(["alive", "unpromised", "suspect", "expired"]),
        in_flight=st.integers(0, 4),
        concurrency=st.integers(1, 4),
        last_used=st.integers(0, 9),
        breaker=st.sampled_from(Breaker),
        retry_at=st.sampled_from([0.0, 10.0]),
    ),
    unique_by=lambda candidate: candidate.name,
)


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_the_choice_is_feasible_and_does_not_depend_on_the_order_of_the_list(
    candidates: list[Candidate], rng: object
) -> None:
    answer = choose(HERE, candidates, 5.0)
    shuffled = list(candidates)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(HERE, shuffled, 5.0) == answer
    if isinstance(answer, Chosen):
        picked = next(candidate for candidate in candidates if candidate.name == answer.name)
        assert picked.liveness != "expired"
        assert picked.in_flight < picked.limit(5.0)


def test_a_run_of_wishes_is_spread_evenly() -> None:
    used = dict.fromkeys("abc", 0)
    turn = 0
    counts = dict.fromkeys("abc", 0)
    for turn in range(1, 31):
        answer = choose(HERE, [agent(name, last_used=used[name]) for name in "cab"], 0.0)
        assert isinstance(answer, Chosen)
        used[answer.name] = turn
        counts[answer.name] += 1
    assert set(counts.values()) == {10}
