"""The words of a command that starts an engine: which engine it is, what its options say, which files it reads.

Wrappers (`env`, `nice`, ...) are looked through. Nothing here runs or changes a command.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from common.config.models import Capability, EngineKind

WEIGHTS: Final = (".gguf", ".bin", ".safetensors", ".ckpt", ".pt", ".pth", ".onnx", ".ggml", ".engine")
_MODEL_OPTIONS: Final = ("-m", "--model", "--mmproj", "-md", "--model-draft", "--lora", "--diffusion-model", "--vae")
_WRAPPERS: Final = frozenset(
    {"env", "nice", "ionice", "numactl", "taskset", "nohup", "exec", "stdbuf", "setsid", "sudo"}
)
_ENGINES: Final[tuple[tuple[re.Pattern[str], EngineKind], ...]] = (
    (re.compile(r"llama-server|llama_server|llama\.cpp|llama-cpp|ik_llama"), "llama-server"),
    (re.compile(r"(^|[/:\s])vllm([/:.\s]|$)|vllm[-/]openai|vllm\.entrypoints"), "vllm"),
    (re.compile(r"(^|[/:\s])ollama([/:\s]|$)"), "ollama"),
    (re.compile(r"comfyui|comfy-ui", re.IGNORECASE), "comfyui"),
)
_KINDS: Final[tuple[tuple[re.Pattern[str], tuple[Capability, ...]], ...]] = (
    (re.compile(r"whisper|parakeet|(^|[-_/])(asr|stt)([-_/]|$)", re.IGNORECASE), ("transcription",)),
    (re.compile(r"kokoro|piper|(^|[-_/])tts([-_/]|$)", re.IGNORECASE), ("speech",)),
    (re.compile(r"(^|[-_/])(sd-server|sdcpp)|stable-diffusion", re.IGNORECASE), ("images",)),
    (re.compile(r"infinity|text-embeddings-inference", re.IGNORECASE), ("embeddings",)),
)
_NAMED: Final[tuple[tuple[re.Pattern[str], tuple[Capability, ...]], ...]] = (
    (re.compile(r"rerank", re.IGNORECASE), ("rerank",)),
    (re.compile(r"embed|minilm|(^|[-_/])(bge|e5|gte)[-_]", re.IGNORECASE), ("embeddings",)),
)
_TASKS: Final[dict[str, tuple[Capability, ...]]] = {
    "embed": ("embeddings",),
    "embedding": ("embeddings",),
    "pooling": ("embeddings",),
    "score": ("rerank",),
    "classify": ("rerank",),
    "transcription": ("transcription",),
}
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=")
_WINDOWS: Final = re.compile(r"(^|\s|\")[A-Za-z]:[\\/]")


def split(text: str) -> list[str]:
    """The words of a command line, as a shell without variables or patterns splits them; lines that begin with # are comments.

    ValueError says what is wrong with its quotes.
    """
    joined = text.replace("\\\r\n", " ").replace("\\\n", " ")
    lines = (line for line in joined.splitlines() if not line.lstrip().startswith("#"))
    return shlex.split(" ".join(lines))


def is_of_windows(text: str) -> bool:
    """Whether a command line names a Windows path, which no program here could open."""
    return _WINDOWS.search(text) is not None


def program_at(words: Sequence[str]) -> int:
    """Where in `words` the program itself stands, behind wrappers and assignments; its length where there is none."""
    for index, word in enumerate(words):
        name = posixpath.basename(word)
        after_option = index > 0 and words[index - 1] in ("-n", "-u", "-c", "-N", "-m")
        if not (name in _WRAPPERS or word.startswith("-") or _ASSIGNMENT.match(word) or after_option):
            return index
    return len(words)


def engine_of(words: Iterable[str], image: str = "") -> EngineKind:
    """Which engine a command or an image starts; `openai` where it is none of those known."""
    for pattern, engine in _ENGINES:
        if pattern.search(image) or any(pattern.search(word) for word in list(words)[:8]):
            return engine
    return "openai"


def option(words: Sequence[str], *names: str) -> str | None:
    """The last value that one of these options is given, as `--name value` or `--name=value`."""
    value = None
    for index, word in enumerate(words):
        name, equals, inline = word.partition("=")
        if name in names:
            value = inline if equals else (words[index + 1] if index + 1 < len(words) else None)
    return value


def number(words: Sequence[str], *names: str) -> int | None:
    """The same as a whole number; None where it is none."""
    value = option(words, *names)
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 10 else None


def fraction(words: Sequence[str], *names: str) -> float | None:
    """The same as a fraction of one; None where it is none."""
    value = option(words, *names)
    return float(value) if value is not None and re.fullmatch(r"0?\.\d{1,6}|1(\.0{1,6})?", value) else None


def has(words: Sequence[str], *names: str) -> bool:
    """Whether one of these switches is there."""
    return any(word.partition("=")[0] in names for word in words)


def weights(words: Sequence[str], cwd: str) -> list[str]:
    """The files of weights that the words name, as absolute paths from `cwd`, each once."""
    named = [word.partition("=")[2] if word.startswith("--") and "=" in word else word for word in words]
    wanted = [word for word in named if word.lower().endswith(WEIGHTS)]
    for name in _MODEL_OPTIONS:
        value = option(words, name)
        if value is not None and value.startswith("/"):
            wanted.append(value)
    absolute = (posixpath.normpath(posixpath.join(cwd, word)) for word in wanted)
    return [path for path in dict.fromkeys(absolute) if path.startswith("/")]


def capabilities(engine: EngineKind, words: Sequence[str], image: str = "") -> list[Capability]:
    """What a model can be asked for beside or instead of what its engine usually serves; empty: just that."""
    if has(words, "--rerank", "--reranking"):
        return ["rerank"]
    if has(words, "--embedding", "--embeddings"):
        return ["embeddings"]
    if engine == "vllm":
        task = option(words, "--task", "--runner", "--convert") or ""
        return list(_TASKS.get(task, ()))
    if engine == "openai":
        told = [image, *words[:8]]
        return list(next((kinds for pattern, kinds in _KINDS if any(map(pattern.search, told))), ()))
    return []


def capabilities_by_name(name: str) -> list[Capability]:
    """What a model seems to be for where only its name is known, as in a server of many models; empty: it is not told."""
    return list(next((kinds for pattern, kinds in (*_NAMED, *_KINDS) if pattern.search(name)), ()))


def users(engine: EngineKind, words: Sequence[str]) -> int:
    """How many the engine is told to serve at a time; 0 where it is not told."""
    names = {"llama-server": ("-np", "--parallel"), "vllm": ("--max-num-seqs", "--max_num_seqs")}.get(engine, ())
    return min(number(words, *names) or 0, 4_096)


def on_cpu(words: Sequence[str]) -> bool:
    """Whether the command has its engine leave every card alone."""
    return has(words, "--no-gpu") or option(words, "--device", "-dev") in ("cpu", "none")


def cards(engine: EngineKind, words: Sequence[str], listed: str = "") -> int:
    """On how many cards the command puts the model: as its options say, or as `listed` (of CUDA_VISIBLE_DEVICES) names.

    One where it puts it on none.
    """
    if on_cpu(words):
        return 1
    if engine == "vllm":
        tensor = number(words, "--tensor-parallel-size", "-tp", "--tensor_parallel_size") or 1
        pipeline = number(words, "--pipeline-parallel-size", "-pp", "--pipeline_parallel_size") or 1
        if tensor * pipeline > 1:
            return min(tensor * pipeline, 16)
    shares = option(words, "--tensor-split", "-ts") if engine == "llama-server" else None
    if shares is not None:
        used = [share for share in re.split(r"[,/]", shares) if share.strip("0. ")]
        return max(1, min(len(used), 16))
    named = [piece for piece in listed.split(",") if piece.strip()]
    return max(1, min(len(named), 16))
