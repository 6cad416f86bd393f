from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import BadRequest, NotFound, Unavailable
from tandem.adopting import sources
from tandem.adopting.proposal import Findings

LAYER = {"mediaType": "application/vnd.ollama.image.model", "size": 2**30}


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(found: Findings) -> list[str]:
    return [proposal.model.name for proposal in found.proposals]


def test_a_file_is_told_apart_by_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = write(tmp_path, "models: {a: {cmd: 'llama-server --port ${PORT} -m m.gguf'}}")
    (tmp_path / "m.gguf").write_bytes(b"x" * 2**20)
    found = sources.findings(swap, None, 0, {})
    assert names(found) == ["a"]
    assert "1.0 MiB of files" in found.notes[0].message
    monkeypatch.chdir(tmp_path)
    assert sources.findings(Path("config.yaml"), None, 0, {}).file == str(swap)
    compose = write(
        tmp_path, "services: {s: {image: 'vllm/vllm-openai:${TAG}', gpus: all, command: --model m}}", "compose.yaml"
    )
    write(tmp_path, "# tags\nexport TAG='v1'\nNOPE\nHOME=/x # mine\n", ".env")
    assert "vllm/vllm-openai:v1" in sources.findings(compose, None, 0, {}).proposals[0].model.command
    assert "vllm/vllm-openai:v2" in sources.findings(compose, None, 0, {"TAG": "v2"}).proposals[0].model.command
    other = write(tmp_path, "services: []", "other.yaml")
    with pytest.raises(BadRequest, match="neither a llama-swap nor a compose file"):
        sources.findings(other, None, 0, {})
    assert names(sources.findings(other, "compose", 0, {})) == []
    assert names(sources.findings(other, "llama-swap", 0, {})) == []


def test_what_is_not_there_or_no_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no"):
        sources.findings(tmp_path / "gone", None, 0)
    for text, told in (
        ("a: !!python/object/apply:os.system [ls]", "is not plain data"),
        ("a: [", "is not YAML"),
        (
            "\n".join(["a0: &a0 [x,x,x,x,x,x,x,x,x]", *(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]" for n in range(1, 9))]),
            "holds more",
        ),
        ("#" * 600_000, "is larger than"),
    ):
        with pytest.raises(BadRequest, match=told):
            sources.findings(write(tmp_path, text), None, 0)


def test_ollamas_folder_is_read_in_each_of_its_forms(tmp_path: Path) -> None:
    manifest = json.dumps({"layers": [LAYER]})
    write(tmp_path, manifest, "models/manifests/registry.ollama.ai/library/qwen3/8b")
    write(tmp_path, "junk", "models/manifests/registry.ollama.ai/library/.DS_Store")
    write(tmp_path, "junk", "models/manifests/.hidden/a/b/c")
    for folder in (tmp_path, tmp_path / "models"):
        assert names(sources.findings(folder, None, 0)) == ["qwen3:8b"]
    with pytest.raises(BadRequest, match="no manifests"):
        sources.findings(tmp_path / "models" / "manifests", None, 0)


def test_too_many_manifests_and_unreadable_ones_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "{}", "manifests/r/l/m/1")
    (tmp_path / "manifests/r/l/m/2").symlink_to(tmp_path / "gone")
    with pytest.raises(Unavailable, match="No such file"):
        sources.findings(tmp_path, None, 0)
    monkeypatch.setattr(sources, "MAX_MANIFESTS", 0)
    with pytest.raises(BadRequest, match="more than 0 manifests"):
        sources.findings(tmp_path, None, 0)


def test_weights_may_be_a_file_or_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "xx", "w/a.safetensors")
    write(tmp_path, "xxx", "w/b.safetensors")
    write(tmp_path, "xxxx", "w/README.md")
    assert sources.file_bytes(str(tmp_path / "w")) == 5
    assert sources.file_bytes(str(tmp_path / "w/a.safetensors")) == 2
    assert sources.file_bytes(str(tmp_path)) is None
    assert sources.file_bytes(str(tmp_path / "gone")) is None
    assert sources.file_bytes("/dev/null") is None
    assert sources.file_bytes("a\0b") is None
