from __future__ import annotations

from typing import Any, get_args

import pytest

from common.config.decode import decode
from common.config.document import Document
from common.config.models import CAPABILITIES, ENGINES, HEALTH_PATHS, SLOTS, Capability, Idle, Model, label_of
from common.config.units import Duration, Size

GIB = 2**30


def model(**fields: Any) -> Model:
    plain: dict[str, Any] = {"name": "m", "engine": "llama-server", "vram": Size(GIB)}
    return Model(**(plain | fields))


def decoded(**fields: Any) -> tuple[Model, list[str]]:
    entry = {"name": "m", "engine": "openai", "vram": "4GiB"} | fields
    startup, problems = decode(Document("f", {"version": 1, "host": "h", "supervisor": {}, "models": [entry]}))
    return startup.models[0], [str(problem) for problem in problems]


def test_an_entry_says_little_and_means_much() -> None:
    read, problems = decoded(engine="llama-server", files=["/m.gguf"], health={"ready_within_s": "10m"})
    assert problems == []
    assert (read.vram, read.priority, read.cards, read.users) == (4 * GIB, 50, 1, 1)
    assert (read.health_path, read.served) == ("/health", ("chat", "completions", "responses"))
    assert read.health.ready_within_s == 600
    assert read.sleep == "auto"
    assert not read.adopted
    assert read.listed
    assert read.enabled


def test_nothing_is_put_away_for_being_idle_unless_it_is_asked_for() -> None:
    assert model().idle.after_s is None
    read, _ = decoded(idle={"after_s": "15m", "then": "sleep"})
    assert read.idle == Idle(after_s=Duration(900.0), then="sleep")


def test_what_is_said_wins_over_what_the_engine_means() -> None:
    read = model(slots=3, capabilities=["rerank"], upstream="x", aliases=["a"], url="http://127.0.0.1:1")
    assert (read.users, read.served, read.upstream_name) == (3, ("rerank",), "x")
    assert read.names == ("m", "a")
    assert read.adopted
    assert model().upstream_name == "m"
    assert decoded(health={"path": "/up"})[0].health_path == "/up"


def test_every_engine_has_its_defaults_and_every_capability_is_one() -> None:
    assert set(HEALTH_PATHS) == set(CAPABILITIES) == set(SLOTS) == set(ENGINES)
    assert all(set(served) <= set(get_args(Capability)) for served in CAPABILITIES.values())


@pytest.mark.parametrize("sleep", [True, False, "auto"])
def test_sleep_is_true_false_or_auto(sleep: bool | str) -> None:
    read, problems = decoded(sleep=sleep)
    assert (read.sleep, problems) == (sleep, [])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sleep": "often"}, "models[0].sleep: 'often' is not a choice here"),
        ({"engine": "llama"}, "models[0].engine: 'llama' is not a choice here (one of llama-server, vllm"),
        ({"vram": "lots"}, "models[0].vram: 'lots' is not a size"),
        ({"capabilities": ["chatting"]}, "models[0].capabilities[0]: 'chatting' is not a choice here (one of chat,"),
        ({"aliases": [""]}, "models[0].aliases[0]: expected str of length >= 1"),
        ({"vrom": 1}, "models[0].vrom: unknown key (did you mean vram?)"),
        ({"cards": 0}, "models[0].cards: expected int >= 1"),
    ],
)
def test_a_wrong_value_is_told_at_its_place(fields: dict[str, Any], told: str) -> None:
    assert told in "\n".join(decoded(**fields)[1])


def test_a_label_names_a_file_and_tells_names_apart() -> None:
    assert label_of("qwen3-8b.Q4") == "qwen3-8b.Q4"
    odd = [label_of(name) for name in ("qwen:8b", "qwen/8b", "qwen 8b", "_x", "é", "x" * 100, "x" * 101, "")]
    assert len(set(odd)) == len(odd)
    assert all(label[0].isalnum() and len(label) <= 64 and "/" not in label for label in odd)
    assert odd[0].startswith("qwen-8b-")
    assert model(name="a/b").label == label_of("a/b")
