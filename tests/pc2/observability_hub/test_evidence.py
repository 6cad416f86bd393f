from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pc2.observability_hub.evidence import VERDICTS, Evidence, Outcome, Weight

WELL = Outcome(Weight.WELL, latency_s=0.001)
WEAK = Outcome(Weight.WEAK, "the disk is full")
UNWELL = Outcome(Weight.UNWELL, "not ready")
REFUSED = Outcome(Weight.MISS, "nobody listens")
SILENT = Outcome(Weight.MISS, "no answer within 0.3 s", silent=True)


def after(*outcomes: Outcome, evidence: Evidence | None = None) -> Evidence:
    evidence = evidence or Evidence()
    for at, outcome in enumerate(outcomes):
        evidence.take(outcome, float(at))
    return evidence


def test_the_first_answer_is_believed_at_once() -> None:
    assert after(WELL).believed == "healthy"
    assert after(UNWELL).believed == "unhealthy"


def test_one_lost_answer_is_no_news_and_neither_is_the_very_first() -> None:
    assert after(WELL, WELL, SILENT).believed == "healthy"
    assert after(SILENT).believed == "unknown"


def test_two_of_three_lost_answers_make_it_degraded_and_say_how_many() -> None:
    evidence = after(WELL, SILENT, SILENT)
    assert evidence.believed == "degraded"
    assert evidence.reason == "no answer within 0.3 s (2 of the last 3 probes)"


def test_four_of_five_lost_answers_make_it_unreachable() -> None:
    assert after(WELL, REFUSED, REFUSED, REFUSED).believed == "degraded"
    evidence = after(WELL, REFUSED, REFUSED, REFUSED, REFUSED)
    assert (evidence.believed, evidence.reason) == ("unreachable", "nobody listens")


def test_what_it_says_of_itself_is_believed_when_it_says_it_twice() -> None:
    assert after(WELL, WEAK).believed == "healthy"
    evidence = after(WELL, WEAK, WEAK)
    assert (evidence.believed, evidence.reason) == ("degraded", "the disk is full")
    assert after(WELL, UNWELL, UNWELL).believed == "unhealthy"


def test_it_is_better_when_two_answers_in_a_row_are() -> None:
    down = after(WELL, *[REFUSED] * 5)
    assert after(WELL, evidence=down).believed == "unreachable"
    evidence = after(WELL, evidence=down)
    assert (evidence.believed, evidence.reason) == ("healthy", "")
    assert after(WELL, *[REFUSED] * 5, WEAK, WEAK).believed == "degraded"


def test_two_better_answers_that_do_not_follow_each_other_make_it_no_better() -> None:
    assert after(UNWELL, UNWELL, WEAK, UNWELL, WEAK).believed == "unhealthy"


def test_the_reason_is_the_newest_of_those_that_are_as_bad() -> None:
    assert after(UNWELL, UNWELL, WEAK).reason == "not ready"
    assert after(UNWELL, Outcome(Weight.UNWELL, "still not ready")).reason == "still not ready"


def test_one_that_was_never_heard_and_then_is_twice_is_believed() -> None:
    assert after(SILENT, WELL, WELL).believed == "healthy"


def test_silences_can_be_taken_back_and_refusals_stay() -> None:
    evidence = after(WELL, SILENT)
    evidence.drop_silence()
    assert evidence.missed_since is None
    assert after(SILENT, evidence=evidence).believed == "healthy"
    refused = after(WELL, SILENT, REFUSED)
    refused.drop_silence()
    assert refused.missed_since is not None
    nothing = after(SILENT)
    nothing.drop_silence()
    assert nothing.missed_since is None


def test_it_tells_since_when_it_was_missed_and_when_it_answered() -> None:
    evidence = after(WELL, REFUSED, REFUSED)
    assert (evidence.missed_since, evidence.answered_at) == (1.0, 0.0)
    evidence.take(WELL, 3.0)
    assert (evidence.missed_since, evidence.answered_at) == (None, 3.0)


@given(st.lists(st.sampled_from([WELL, WEAK, UNWELL, REFUSED, SILENT]), min_size=1, max_size=60))
def test_no_verdict_is_worse_than_what_the_last_five_probes_confirm(outcomes: list[Outcome]) -> None:
    evidence = Evidence()
    for at, outcome in enumerate(outcomes):
        before = evidence.believed
        evidence.take(outcome, float(at))
        last = [one.weight for one in outcomes[max(0, at - 4) : at + 1]]
        if evidence.believed == "unreachable" and before != "unreachable":
            assert last.count(Weight.MISS) >= 4
        if evidence.believed == "healthy" and before not in ("healthy", "unknown"):
            assert last[-2:] == [Weight.WELL, Weight.WELL]
        assert evidence.believed in (*VERDICTS.values(), "unknown")
        assert bool(evidence.reason) == (evidence.believed not in ("healthy", "unknown"))
