from __future__ import annotations

import pytest

from common.api.models import ModelProgress, UseModel
from common.errors import NoCapacity
from pc2.resource_manager.callers import Caller, Callers


def test_a_caller_waits_until_it_has_its_answer_or_its_refusal() -> None:
    callers = Callers()
    with callers.wait(UseModel(model="a", host="pc2"), 5.0) as one:
        with callers.wait(UseModel(model="b"), 6.0) as other:
            assert list(callers.waiting.values()) == [one, other] == [one, Caller("b", 6.0)]
        assert callers.waiting == {1: Caller("a", 5.0, "pc2")}
        one.told(ModelProgress("queued", "pc2", 1, 0.0, None, ""))
        assert (one.at, one.coming) == ("pc2", False)
        one.told(ModelProgress("loading", "pc2", 0, 0.0, None, ""))
        assert one.coming
        assert (one.for_card, one.for_host) == (True, False), "as where nobody has told"
        one.told(ModelProgress("queued", "pc2", 1, 0.0, None, "", for_card=False, for_host=True))
        assert (one.for_card, one.for_host) == (False, True)
    assert callers.waiting == {}
    with pytest.raises(NoCapacity):
        _refused(callers)
    assert callers.waiting == {}


def _refused(callers: Callers) -> None:
    with callers.wait(UseModel(model="b"), 6.0):
        raise NoCapacity("no room")
