from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.resilience.window import FAILED, FINE, ROOM, SLOW, Window

SPAN_S = 10.0
SIZES = st.sampled_from([1, 5, ROOM, ROOM + 1, 3 * ROOM])
"""With room for all at once, and with room that is made as it is needed."""

steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 1.0, 4.0]), st.sampled_from([*[FINE, FAILED, SLOW, FAILED | SLOW] * 8, "clear"])
    ),
    min_size=1,
    max_size=150,
)


@given(SIZES, steps)
def test_a_window_counts_the_last_few_outcomes_that_are_young_enough(
    size: int, steps: list[tuple[float, int | str]]
) -> None:
    window, model, now = Window(size, SPAN_S), [], 0.0
    for wait_s, step in steps:
        now += wait_s
        if isinstance(step, str):
            window.clear()
            model = []
        else:
            window.add(step, now)
            model = [*model, (now, step)][-size:]
        model = [(at, bits) for at, bits in model if at > now - SPAN_S]
        held = window.calls, window.failures, window.slow
        counted = window.counted(now)
        assert (window.calls, window.failures, window.slow) == held, "asking changes nothing"
        window.forget(now)
        assert counted == (window.calls, window.failures, window.slow)
        assert window.calls == len(model)
        assert window.failures == sum(1 for _, bits in model if bits & FAILED)
        assert window.slow == sum(1 for _, bits in model if bits & SLOW)


def test_every_outcome_counts_while_room_is_made_for_more() -> None:
    window = Window(5 * ROOM, SPAN_S)
    for number in range(1, 4 * ROOM):
        window.add(FAILED | SLOW, 0.0)
        assert (window.calls, window.failures, window.slow) == (number, number, number) == window.counted(0.0)


def test_a_quiet_endpoint_costs_little_and_a_busy_one_what_it_needs() -> None:
    quiet, busy = Window(50_000, SPAN_S), Window(50_000, SPAN_S)
    for number in range(100_000):
        quiet.add(FAILED, float(number))
        quiet.forget(float(number))
        busy.add(FAILED, 0.0)

    assert len(quiet._at) == len(quiet._bits) == ROOM
    assert busy.calls == busy.failures == len(busy._at) == 50_000
