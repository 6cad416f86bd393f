from __future__ import annotations

import pytest

from main_pc.core_orchestrator import liveness
from main_pc.core_orchestrator.liveness import NEXT, Sign


def test_silence_counts_in_ttls_and_only_against_a_promise() -> None:
    assert liveness.of_silence(None, 1e9) is None
    assert liveness.of_silence(2.0, 2.0) is None
    assert liveness.of_silence(2.0, 2.1) is Sign.LATE
    assert liveness.of_silence(2.0, 6.0) is Sign.LATE
    assert liveness.of_silence(2.0, 6.1) is Sign.LOST


@pytest.mark.parametrize(("ttl_s", "begins", "sign"), [(None, "unpromised", Sign.SEEN), (2.0, "alive", Sign.KEPT)])
def test_a_word_returns_an_expired_agent_to_where_it_began(ttl_s: float | None, begins: str, sign: Sign) -> None:
    assert liveness.at_registration(ttl_s) == begins
    assert liveness.of_life(ttl_s) is sign
    assert NEXT["expired", sign] == begins


def test_silence_never_moves_one_that_promised_nothing() -> None:
    assert {sign for state, sign in NEXT if state == "unpromised"} == {Sign.SEEN, Sign.DIED}
