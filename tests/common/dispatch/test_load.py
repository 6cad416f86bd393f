from __future__ import annotations

import pytest

from common.dispatch import load
from common.dispatch.load import Load


def test_a_place_is_free_again_when_its_call_is_settled() -> None:
    it = Load()
    it.begin(("t", 1), "a")
    it.begin(("u", 1), "a")
    it.begin(("v", 1), "b")
    assert (it.in_flight("a"), it.in_flight("b"), it.in_flight("c")) == (2, 1, 0)
    assert list(it.calls_to("a")) == [("t", 1), ("u", 1)]
    assert it.settle(("t", 1)) == "a"
    assert it.in_flight("a") == 1
    assert it.settle(("u", 1)) == "a"
    assert list(it.calls_to("a")) == []
    with pytest.raises(KeyError):
        it.settle(("u", 1))


def test_the_last_turn_of_each_agent_is_known_and_the_oldest_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TURNS_KEPT", 2)
    it = Load()
    for number, name in enumerate(("a", "b", "a", "c")):
        it.begin(("t", number), name)
    assert it.turn == 4
    assert (it.last_used("a"), it.last_used("b"), it.last_used("c")) == (3, 0, 4)
