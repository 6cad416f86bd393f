from __future__ import annotations

from main_pc.front import listing
from main_pc.front.paths import Dialect, dialect_of
from tests.main_pc.front.models import model

AT, NEVER = "2026-01-31T12:00:00.000Z", "9999-12-31T23:59:59Z"


MODELS = [
    model("qwen", state="absent", aliases=["gpt-4o"]),
    model("qwen", host="pc2", state="ready", aliases=["gpt-4o"]),
    model("nomic", state="parked", capabilities=["embeddings", "rerank"]),
]


def test_openais_list_has_every_name_once_and_says_where_it_is() -> None:
    listed = listing.openai_models(MODELS)["data"]
    assert [(each["id"], each["owned_by"]) for each in listed] == [
        ("qwen", "tandem/pc2"),
        ("gpt-4o", "tandem/pc2"),
        ("nomic", "tandem/mainpc"),
    ]
    assert listed[0]["tandem"] == {"host": "pc2", "state": "ready", "engine": "llama-server", "bytes": 5}


def test_no_tag_and_the_tag_latest_are_the_same_and_what_was_said_comes_first() -> None:
    assert listing.spellings("qwen") == ("qwen", "qwen:latest")
    assert listing.spellings("qwen:latest") == ("qwen:latest", "qwen")
    assert listing.spellings("qwen:8b") == ("qwen:8b",)
    assert listing.named([model("llama:latest"), model("qwen")], "llama") == model("llama:latest")
    assert listing.named([model("llama"), model("llama:latest")], "llama:latest") == model("llama:latest")


def test_ollamas_tags_have_every_name() -> None:
    assert [each["name"] for each in listing.ollama_tags(MODELS, AT)["models"]] == ["qwen", "gpt-4o", "nomic"]


def test_a_model_that_is_not_to_be_listed_is_found_by_its_name_alone() -> None:
    hidden = model("hidden", listed=False)
    assert listing.openai_models([*MODELS, hidden])["data"] == listing.openai_models(MODELS)["data"]
    assert listing.ollama_tags([hidden], AT)["models"] == []
    assert listing.named([hidden], "hidden") is hidden


def test_what_is_in_memory_never_expires_and_what_is_parked_holds_no_vram() -> None:
    loaded = listing.ollama_loaded(MODELS, AT, NEVER)["models"]
    assert [(each["name"], each["size_vram"], each["expires_at"]) for each in loaded] == [
        ("qwen", 5, NEVER),
        ("nomic", 0, NEVER),
    ]


def test_a_name_means_the_host_that_has_it_loaded() -> None:
    found = listing.named(MODELS, "gpt-4o")
    assert found is not None
    assert found.host == "pc2"
    assert listing.named(MODELS, "other") is None


def test_what_a_model_can_do_is_shown_in_ollamas_words() -> None:
    assert listing.ollama_show(MODELS[2], AT)["capabilities"] == ["embedding"]
    assert listing.ollama_show(MODELS[0], AT)["capabilities"] == ["completion"]


def test_a_refusal_speaks_the_dialect_of_its_path() -> None:
    assert dialect_of("/api/nothing") is Dialect.OLLAMA
    assert dialect_of("/v1/nothing") is Dialect.OPENAI
