from __future__ import annotations

from typing import Any

import pytest

from common.api.models import Model, UseModel
from common.errors import BadRequest, NotFound, Unavailable
from pc2.resource_manager import model_choice
from pc2.resource_manager.model_choice import Room


def model(host: str, state: str = "absent", **more: Any) -> Model:
    plain: dict[str, Any] = {
        "name": "qwen",
        "engine": "llama-server",
        "aliases": ["gpt-4o"],
        "capabilities": ["chat"],
        "declared_bytes": 4,
        "footprint_bytes": 5,
        "load_s": 10.0,
        "users": 0,
        "slots": 2,
        "pinned": False,
        "priority": 50,
    }
    return Model(host=host, state=state, **{**plain, **more})  # type: ignore[arg-type]


BEST_FIRST = [
    (model("a", "ready"), Room("wait")),
    (model("b", "ready", users=1), Room("wait")),
    (model("c", "loading"), Room("wait")),
    (model("d", "queued", users=1), Room("wait")),
    (model("e", "parked"), Room("wait")),
    (model("f", load_s=5.0), Room("grant")),
    (model("g"), Room("grant")),
    (model("h"), Room("evict", 0.1)),
    (model("i", "expiring"), Room("evict", 0.2)),
    (model("j", "ready", users=2), Room("grant")),
    (model("k"), Room("wait")),
    (model("l"), Room("never")),
    (model("m", problem="it lacks /m.gguf"), Room("grant")),
    (model("n", "failed", load_s=20.0), Room("grant")),
]


def test_the_host_that_has_it_soonest_is_asked_first() -> None:
    models = [each for each, _ in BEST_FIRST]
    rooms = {each.host: room for each, room in BEST_FIRST}
    found = model_choice.order(UseModel(model="qwen"), models[::-1], rooms)
    assert [each.host for each in found] == [each.host for each in models]


def test_a_host_of_which_nothing_is_known_may_have_to_be_waited_for() -> None:
    found = model_choice.order(UseModel(model="qwen"), [model("a"), model("b")], {"b": Room("evict", 9.0)})
    assert [each.host for each in found] == ["b", "a"]


def test_only_the_host_that_was_asked_for_is_asked() -> None:
    found = model_choice.order(UseModel(model="qwen", host="b"), [model("a", "ready"), model("b")], {})
    assert [each.host for each in found] == ["b"]


@pytest.mark.parametrize(
    ("asked", "missing", "error", "told"),
    [
        (UseModel(model="qwem"), {}, NotFound, "no model 'qwem'"),
        (UseModel(model="gpt-4o", host="b"), {}, NotFound, "no model 'gpt-4o' on b"),
        (UseModel(model="other"), {"b": "the cable is out"}, Unavailable, r"b: the cable is out"),
        (UseModel(model="other", host="a"), {"b": "away"}, NotFound, "no model 'other' on a"),
        (UseModel(model="qwen", capability="speech"), {}, BadRequest, "does not serve speech; it serves chat"),
    ],
)
def test_why_nobody_is_asked_is_told(
    asked: UseModel, missing: dict[str, str], error: type[Exception], told: str
) -> None:
    refusal = model_choice.refusal(asked, [model("a")], missing)
    assert isinstance(refusal, error)
    assert refusal.args[0].find(told.replace("\\", "")) >= 0


def test_a_close_name_is_suggested() -> None:
    refusal = model_choice.refusal(UseModel(model="gpt-4"), [model("a")], {})
    assert refusal is not None
    assert refusal.details["mend"] == "did you mean 'gpt-4o'?"
    far = model_choice.refusal(UseModel(model="zzz"), [model("a")], {})
    assert far is not None
    assert "`tandem models` lists them" in far.details["mend"]


def test_a_disabled_model_is_said_to_be_and_another_hosts_is_asked() -> None:
    off, on = model("a", enabled=False), model("b")
    refusal = model_choice.refusal(UseModel(model="gpt-4o"), [off], {})
    assert isinstance(refusal, NotFound)
    assert refusal.message == "gpt-4o is disabled on a"
    assert "enabled: true" in refusal.details["mend"]
    away = model_choice.refusal(UseModel(model="qwen"), [off], {"b": "away"})
    assert isinstance(away, Unavailable)
    assert "b: away; qwen is disabled on a" in away.message
    assert model_choice.refusal(UseModel(model="qwen"), [off, on], {}) is None
    assert model_choice.named([off, on], "qwen") == [on]
    elsewhere = model_choice.refusal(UseModel(model="qwen", host="b"), [off], {})
    assert isinstance(elsewhere, NotFound)
    assert elsewhere.message == "no model 'qwen' on b"


def test_whoever_can_be_asked_is_not_refused() -> None:
    nothing_told = model("a", capabilities=[])
    assert model_choice.refusal(UseModel(model="gpt-4o", capability="chat"), [model("a")], {"b": "away"}) is None
    assert isinstance(model_choice.refusal(UseModel(model="qwen", capability="chat"), [nothing_told], {}), BadRequest)
