from __future__ import annotations

import pytest

from common.config.models import Capability, EngineKind
from tandem.adopting import commands


def test_a_command_line_is_split_without_its_comments() -> None:
    text = "# first\nserve \\\n --port 1\n   # --old 2\n --name 'a b' -c '{\"x\": 1}'\n"
    assert commands.split(text) == ["serve", "--port", "1", "--name", "a b", "-c", '{"x": 1}']
    with pytest.raises(ValueError, match="No closing quotation"):
        commands.split("serve 'x")


def test_windows_paths_are_known() -> None:
    assert commands.is_of_windows(r"C:\llama\llama-server.exe -m F:/m.gguf")
    assert commands.is_of_windows('serve -m "D:/m.gguf"')
    assert not commands.is_of_windows("serve http://h -v /a:/b --x data:/b")


@pytest.mark.parametrize(
    ("line", "engine"),
    [
        ("/opt/llama-server -m x", "llama-server"),
        ("env CUDA=1 nice -n 5 llama-server", "llama-server"),
        ("vllm serve x", "vllm"),
        ("/venv/bin/python -m vllm.entrypoints.openai.api_server", "vllm"),
        ("ollama serve", "ollama"),
        ("python /opt/ComfyUI/main.py", "comfyui"),
        ("sh -c exec\\ llama-server", "llama-server"),
        ("whisper-server -m x", "openai"),
        ("serve --model /vllm-models/x", "openai"),
    ],
)
def test_the_engine_is_known_by_its_command(line: str, engine: EngineKind) -> None:
    assert commands.engine_of(commands.split(line)) == engine


@pytest.mark.parametrize(
    ("image", "engine"),
    [
        ("ghcr.io/ggml-org/llama.cpp:server-cuda", "llama-server"),
        ("vllm/vllm-openai:v0.10.0", "vllm"),
        ("ollama/ollama:latest", "ollama"),
        ("yanwk/comfyui-boot:cu124", "comfyui"),
        ("ghcr.io/remsky/kokoro-fastapi-gpu", "openai"),
    ],
)
def test_the_engine_is_known_by_its_image(image: str, engine: EngineKind) -> None:
    assert commands.engine_of([], image) == engine


def test_options_are_read_in_both_forms_and_the_last_one_counts() -> None:
    words = ["x", "--a", "1", "--a=2", "-b", "y", "--f", "0.85", "--end"]
    assert commands.option(words, "--a") == "2"
    assert commands.option(words, "--z", "-b") == "y"
    assert commands.option(words, "--end") is None
    assert commands.number(words, "--a") == 2
    assert commands.number(words, "-b") is None
    assert commands.fraction(words, "--f") == 0.85
    assert commands.fraction(words, "--a") is None
    assert commands.has(words, "--end")
    assert not commands.has(words, "--nd")
    assert commands.program_at(["env", "A=1"]) == 2


def test_the_weights_are_files_from_the_folder_it_runs_in() -> None:
    words = commands.split("s -m a/b.gguf --mmproj=/m/p.gguf --model /hub/snapshot --lora a/b.gguf -m c.GGUF --tts x")
    assert commands.weights(words, "/w") == ["/w/a/b.gguf", "/m/p.gguf", "/w/c.GGUF", "/hub/snapshot"]
    assert commands.weights(["s", "-m", "a.gguf"], "") == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llama-server --embedding", ["embeddings"]),
        ("llama-server --reranking", ["rerank"]),
        ("llama-server", []),
        ("vllm serve x --task embed", ["embeddings"]),
        ("vllm serve x --task generate", []),
        ("whisper-server", ["transcription"]),
        ("/opt/sd-server", ["images"]),
        ("kokoro", ["speech"]),
        ("anything", []),
    ],
)
def test_what_a_model_can_be_asked_for_shows_in_its_command(line: str, expected: list[Capability]) -> None:
    words = commands.split(line)
    assert commands.capabilities(commands.engine_of(words), words) == expected


@pytest.mark.parametrize(
    ("line", "listed", "expected"),
    [
        ("vllm serve x -tp 2 --pipeline-parallel-size 2", "", 4),
        ("vllm serve x", "0,1", 2),
        ("llama-server --tensor-split 3,0,1", "", 2),
        ("llama-server -ts 0", "", 1),
        ("llama-server", "", 1),
        ("vllm serve -tp 99", "", 16),
        ("vllm serve x --device cpu -tp 2", "0,1", 1),
    ],
)
def test_the_cards_are_counted(line: str, listed: str, expected: int) -> None:
    words = commands.split(line)
    assert commands.cards(commands.engine_of(words), words, listed) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llama-server -m x.gguf --device none", True),
        ("llama-server -m x.gguf -dev none", True),
        ("faster-whisper-server --device=cpu", True),
        ("whisper-server --no-gpu -m x.bin", True),
        ("llama-server -m x.gguf --device CUDA0", False),
        ("llama-server -m x.gguf -ngl 0", False),
    ],
)
def test_an_engine_that_leaves_cards_alone_is_known_by_its_options(line: str, expected: bool) -> None:
    assert commands.on_cpu(commands.split(line)) is expected


def test_the_users_are_those_the_engine_is_told() -> None:
    assert commands.users("llama-server", ["-np", "4"]) == 4
    assert commands.users("vllm", ["--max-num-seqs=99999"]) == 4096
    assert commands.users("openai", ["-np", "4"]) == 0
