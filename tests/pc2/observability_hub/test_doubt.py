from __future__ import annotations

from pc2.observability_hub.doubt import CALM_S, LATE_S, LONGEST_S, STAYS_S, Doubt


def test_a_hub_that_is_late_doubts_itself_for_a_while() -> None:
    doubt = Doubt()
    doubt.late(LATE_S / 2, 0.0)
    assert doubt.now(0.0) == ""
    doubt.late(1.0, 0.0)
    doubt.late(1.5, 1.0)
    assert doubt.now(1.0) == "the hub itself was 1.5 s late"
    assert doubt.now(1.0 + STAYS_S) == ""
    assert doubt.times == 1


def test_a_hub_that_nobody_answers_doubts_itself() -> None:
    doubt = Doubt()
    for at, name in ((0.0, "a"), (0.1, "b"), (0.2, "c"), (0.3, "d")):
        doubt.silence(name, at)
        assert doubt.now(at) == ""
    doubt.silence("a", 0.6)
    assert doubt.now(0.6) == "nobody answers the hub, 4 at once"


def test_one_answer_shows_that_it_has_ears() -> None:
    doubt = Doubt()
    for at, name in ((0.0, "a"), (0.1, "b"), (0.2, "c")):
        doubt.silence(name, at)
    doubt.heard()
    for at, name in ((0.4, "d"), (0.6, "a"), (0.7, "b")):
        doubt.silence(name, at)
    assert doubt.now(0.7) == ""


def test_few_silent_ones_and_those_of_long_ago_are_no_burst() -> None:
    doubt = Doubt()
    for at in range(40):
        doubt.silence("ab"[at % 2], at / 10)
    assert doubt.now(4.0) == ""
    for at, name in ((0.0, "a"), (2.0, "b"), (4.0, "c"), (6.0, "d"), (8.0, "e")):
        doubt.silence(name, 10 + at)
    assert doubt.now(18.0) == ""


def silent_until(doubt: Doubt, at: float, until: float) -> float:
    """Four that hang, while the hub hears itself about once a second; when doubt was seen last."""
    last = float("-inf")
    while at < until:
        for name in "abcd":
            at += 0.2
            doubt.silence(name, at)
            last = at if doubt.now(at) else last
        doubt.heard()
        at += 0.15
    return last


def test_silence_that_lasts_is_told_of_and_not_doubted_for_ever() -> None:
    doubt = Doubt()
    last = silent_until(doubt, 0.0, 300.0)
    assert LONGEST_S / 2 < last < LONGEST_S + STAYS_S + 1.0
    assert doubt.times == 1
    doubt.late(1.0, 300.0)
    assert doubt.now(300.0)


def test_another_silence_long_after_is_doubted_anew() -> None:
    doubt = Doubt()
    silent_until(doubt, 0.0, 30.0)
    again = 32.0 + CALM_S
    assert silent_until(doubt, again, again + 30.0) > again
    assert doubt.times == 2
