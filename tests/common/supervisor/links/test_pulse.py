from __future__ import annotations

from common.supervisor.links.pulse import Pulse


def test_one_answer_brings_a_link_up_and_two_losses_in_a_row_take_it_down() -> None:
    pulse = Pulse(0.0)
    assert (pulse.up, pulse.round_trip_s, pulse.heard_at, pulse.why) == (False, None, None, "no answer yet")
    assert pulse.heard(1.0, 0.002)
    assert not pulse.heard(2.0, 0.004)
    assert (pulse.up, pulse.since, pulse.heard_at, pulse.round_trip_s) == (True, 1.0, 2.0, 0.003)
    assert not pulse.missed(3.0, "no answer")
    assert pulse.up
    assert pulse.missed(4.0, "no answer")
    assert (pulse.up, pulse.since, pulse.why, pulse.lost, pulse.round_trip_s) == (False, 4.0, "no answer", 2, None)
    assert pulse.heard(9.0, 0.001)
    assert (pulse.since, pulse.why, pulse.round_trip_s) == (9.0, "", 0.001)


def test_the_round_trip_is_the_median_of_the_answers_in_whatever_order_they_came() -> None:
    pulse = Pulse(0.0)
    for at, (trip_s, median_s) in enumerate(
        [(0.005, 0.005), (0.001, 0.003), (0.090, 0.005), (0.002, 0.0035), (0.004, 0.004)]
    ):
        pulse.heard(float(at), trip_s)
        assert pulse.round_trip_s == median_s


def test_a_lost_ping_between_answers_is_only_counted() -> None:
    pulse = Pulse(0.0)
    for at in range(1, 9):
        if at % 2:
            pulse.heard(float(at), 0.001)
        else:
            assert not pulse.missed(float(at), "lost")
    assert pulse.up
    assert pulse.lost == 4


def test_the_reason_of_a_link_that_is_down_is_the_newest() -> None:
    pulse = Pulse(0.0)
    assert not pulse.missed(1.0, "has not joined")
    assert not pulse.missed(2.0, "nobody listens")
    assert (pulse.why, pulse.since, pulse.lost) == ("nobody listens", 0.0, 0)
