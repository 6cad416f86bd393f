from __future__ import annotations

from common.supervisor.models.entries import Entries
from tests.common.supervisor.models.desk import model


def test_what_is_newly_to_be_preloaded_is_told_once() -> None:
    entries = Entries("h")
    assert entries.replace([model("a", preload=True), model("b"), model("c", preload=True, enabled=False)]) == ["a"]
    assert entries.replace([model("a", preload=True), model("b", preload=True), model("c", preload=True)]) == ["b", "c"]
    assert entries.replace([model("b"), model("c", preload=True)]) == []
    assert entries.replace([model("b", preload=True)]) == ["b"]


def test_a_disabled_model_is_said_to_be_and_how_to_have_it() -> None:
    entries = Entries("h")
    entries.replace([model("a", aliases=["b"], enabled=False), model("c")])
    assert [each.name for each in entries] == ["c"]
    assert entries.get("a") is None
    for name in ("a", "b"):
        refused = entries.unknown(name, ["c"])
        assert refused.message == "a is disabled on h"
        assert "`tandem models reload`" in refused.details["mend"]


def test_an_unknown_name_is_told_the_closest_that_is_known() -> None:
    entries = Entries("h")
    assert entries.unknown("lama", ["llama"]).message == "h has no model 'lama'; did you mean llama?"
    assert entries.unknown("zzz", ["llama"]).message == "h has no model 'zzz'"
