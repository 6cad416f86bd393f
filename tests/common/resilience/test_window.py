from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.resilience.window import FAILED, FINE, SLOW, Window

SIZE = 5
SPAN_S = 10.0

steps = st.lists(
    st.tuples(st.floats(0, 4), st.sampled_from([FINE, FAILED, SLOW, FAILED | SLOW, "clear"])), min_size=1, max_size=60
)


@given(steps)
def test_a_window_counts_the_last_few_outcomes_that_are_young_enough(steps: list[tuple[float, int | str]]) -> None:
    window, model, now = Window(SIZE, SPAN_S), [], 0.0
    for wait_s, step in steps:
        now += wait_s
        if isinstance(step, str):
            window.clear()
            model = []
        else:
            window.add(step, now)
            model = [*model, (now, step)][-SIZE:]
        model = [(at, bits) for at, bits in model if at > now - SPAN_S]
        held = window.calls, window.failures, window.slow
        counted = window.counted(now)
        assert (window.calls, window.failures, window.slow) == held, "asking changes nothing"
        window.forget(now)
        assert counted == (window.calls, window.failures, window.slow)
        assert window.calls == len(model)
        assert window.failures == sum(1 for _, bits in model if bits & FAILED)
        assert window.slow == sum(1 for _, bits in model if bits & SLOW)
