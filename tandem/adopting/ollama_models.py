"""Ollama's models into managed ones: from what its `/api/tags` tells, or from the manifests of its folder on disk.

Written from docs/api.md of ollama/ollama and the layout of its model folder. Ollama loads them itself when asked for; each
becomes a model at Ollama's address, whose bytes are counted and which is unloaded by Ollama's own means.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Final

import msgspec

from common.config.models import Capability, Model
from tandem.adopting import sizing
from tandem.adopting.proposal import Findings, Proposal
from tandem.adopting.shaping import fit_name, written_bytes

DEFAULT_URL: Final = "http://127.0.0.1:11434"
REGISTRY: Final = "registry.ollama.ai"
_WEIGHTS: Final = tuple(f"application/vnd.ollama.image.{kind}" for kind in ("model", "projector", "adapter"))
_SERVED: Final[dict[str, tuple[Capability, ...]]] = {"embedding": ("embeddings", "ollama")}
"""What `/api/show` calls a model that only embeds; every other is the engine's usual."""


class Tag(msgspec.Struct, frozen=True):
    """A model as `/api/tags` lists it; `remote_host` is set for one that runs in Ollama's cloud."""

    name: str
    size: int = 0
    remote_host: str = ""
    capabilities: list[str] = []


class Tags(msgspec.Struct, frozen=True):
    """The answer of `/api/tags`."""

    models: list[Tag] | None


class _Layer(msgspec.Struct, frozen=True):
    media_type: str = msgspec.field(name="mediaType", default="")
    size: int = 0


class _Manifest(msgspec.Struct, frozen=True):
    layers: list[_Layer]


def of_tags(found: Findings, tags: Sequence[Tag], url: str) -> None:
    """Adds a model for each tag that runs on this machine; `url` is where Ollama answers."""
    for tag in tags:
        if tag.remote_host:
            found.note("skipped", 0, tag.name, f"runs at {tag.remote_host}, not on this machine")
            continue
        _add(
            found, tag.name, tag.size, url, "embedding" in tag.capabilities and "completion" not in tag.capabilities, ""
        )


def of_manifests(found: Findings, manifests: Sequence[tuple[str, bytes]], url: str) -> None:
    """Adds a model for each manifest: its path below `manifests`, and what it holds."""
    for path, raw in manifests:
        name = name_of(path)
        if not name:
            found.note("skipped", 0, path, "is no manifest of a model", "its path is REGISTRY/NAMESPACE/MODEL/TAG")
            continue
        try:
            layers = msgspec.json.decode(raw, type=_Manifest).layers
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            found.note("skipped", 0, path, f"cannot be read: {error}")
            continue
        weights = sum(layer.size for layer in layers if layer.media_type in _WEIGHTS)
        if weights:
            _add(found, name, weights, url, False, path)
        else:
            found.note("skipped", 0, path, "has no weights on this machine")


def name_of(path: str) -> str:
    """A model's name as Ollama shows it, from the path of its manifest; empty where that is none."""
    parts = path.split("/")
    if len(parts) != 4 or not all(parts):
        return ""
    registry, namespace, model, tag = parts
    if registry != REGISTRY:
        return f"{registry}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == "library" else f"{namespace}/{model}:{tag}"


def _add(found: Findings, name: str, size: int, url: str, embeds: bool, place: str) -> None:
    fit = fit_name(name)
    if not fit:
        found.note("skipped", 0, name, "its name has no letter or digit")
        return
    since = len(found.notes)
    vram = sizing.of_files([size]) if size > 0 else None
    found.note("guessed", 0, place or name, f"vram {written_bytes(vram or sizing.UNKNOWN)} is a guess: " + (
        f"{written_bytes(size)} of weights" if vram else "its size is not told"))  # fmt: skip
    latest = fit.removesuffix(":latest")
    model = Model(
        name=fit,
        engine="ollama",
        vram=vram or sizing.UNKNOWN,
        url=url,
        upstream="" if fit == name else name,
        aliases=[] if latest == fit else [latest],
        capabilities=list(_SERVED["embedding"]) if embeds or "embed" in posixpath.basename(name) else [],
    )
    found.propose(Proposal(model, found.file, 0), since)
