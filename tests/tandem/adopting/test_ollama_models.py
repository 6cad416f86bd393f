from __future__ import annotations

import msgspec

from tandem.adopting.ollama_models import Tag, name_of, of_manifests, of_tags
from tandem.adopting.proposal import Findings

GIB = 2**30
URL = "http://127.0.0.1:11434"


def manifest(*layers: tuple[str, int]) -> bytes:
    told = [{"mediaType": f"application/vnd.ollama.image.{kind}", "size": size} for kind, size in layers]
    return msgspec.json.encode({"schemaVersion": 2, "layers": told})


def test_each_model_on_this_machine_is_one_at_ollamas_address() -> None:
    found = Findings("h")
    tags = [
        Tag("llama3.2:latest", 2 * GIB, capabilities=["completion"]),
        Tag("nomic-embed-text:v1.5", GIB, capabilities=["embedding"]),
        Tag("mxbai-embed-large:latest", 0),
        Tag("hf.co/x/y-GGUF:Q4_K_M", 4 * GIB),
        Tag("big:cloud", 0, remote_host="https://ollama.com"),
        Tag("(", 1),
    ]
    of_tags(found, tags, URL)
    first, embed, other, hub = (proposal.model for proposal in found.proposals)
    assert (first.name, first.aliases, first.upstream_name, first.url) == (
        "llama3.2:latest",
        ["llama3.2"],
        "llama3.2:latest",
        URL,
    )
    assert first.vram == int(3.25 * GIB)
    assert first.capabilities == []
    assert embed.capabilities == other.capabilities == ["embeddings", "ollama"]
    assert (hub.name, hub.aliases) == ("hf.co/x/y-GGUF:Q4_K_M", [])
    skipped = [note.message for note in found.notes if note.kind == "skipped"]
    assert skipped == ["runs at https://ollama.com, not on this machine", "its name has no letter or digit"]
    assert "vram 8GiB is a guess: its size is not told" in [note.message for note in found.notes]


def test_a_name_that_cannot_be_written_is_made_fit() -> None:
    found = Findings("h")
    of_tags(found, [Tag("a+b:1", GIB)], URL)
    assert (found.proposals[0].model.name, found.proposals[0].model.upstream) == ("a-b:1", "a+b:1")


def test_manifests_on_disk_are_models_too() -> None:
    found = Findings("folder")
    manifests = [
        ("registry.ollama.ai/library/qwen3/8b", manifest(("model", 5 * GIB), ("template", 9), ("projector", GIB))),
        ("registry.ollama.ai/me/qwen/latest", manifest(("model", GIB))),
        ("registry.ollama.ai/library/cloud/1", manifest(("license", 9))),
        ("registry.ollama.ai/library/bad/1", b"\xff{"),
        ("stray", b"{}"),
    ]
    of_manifests(found, manifests, URL)
    assert [proposal.model.name for proposal in found.proposals] == ["qwen3:8b", "me/qwen:latest"]
    assert found.proposals[0].model.vram == int(7.75 * GIB)
    assert [note.place for note in found.notes if note.kind == "skipped"] == [
        "registry.ollama.ai/library/cloud/1",
        "registry.ollama.ai/library/bad/1",
        "stray",
    ]


def test_a_manifests_path_tells_its_name() -> None:
    assert name_of("hf.co/x/y-GGUF/Q4_K_M") == "hf.co/x/y-GGUF:Q4_K_M"
    assert name_of("a//b/c") == ""
