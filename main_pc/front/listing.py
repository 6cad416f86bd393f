"""The fabric's models as the two dialects list them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from common.api.models import Model
from common.api.words import Timestamp

LOADED: Final = ("ready", "parked", "loading")
LATEST: Final = ":latest"
VERSION: Final = "0.12.0"
"""The version of Ollama's interface that the front speaks: clients ask for it before they use newer fields."""


def openai_models(models: Iterable[Model]) -> dict[str, Any]:
    """`GET /v1/models`: every name a model can be asked for by."""
    return {
        "object": "list",
        "data": [openai_model(name, model) for model in _one_each(models) for name in names(model)],
    }


def openai_model(name: str, model: Model) -> dict[str, Any]:
    """One model under one of its names."""
    more = {"host": model.host, "state": model.state, "engine": model.engine, "bytes": model.footprint_bytes}
    return {"id": name, "object": "model", "created": 0, "owned_by": f"tandem/{model.host}", "tandem": more}


def ollama_tags(models: Iterable[Model], at: Timestamp) -> dict[str, Any]:
    """`GET /api/tags`."""
    return {"models": [_ollama_model(name, model, at) for model in _one_each(models) for name in names(model)]}


def ollama_loaded(models: Iterable[Model], at: Timestamp, never: Timestamp) -> dict[str, Any]:
    """`GET /api/ps`: what is in memory; nothing is unloaded by a timer, so `never` is when it expires."""
    found = []
    for model in models:
        if model.state in LOADED:
            vram = model.footprint_bytes if model.state != "parked" else 0
            found.append({**_ollama_model(model.name, model, at), "size_vram": vram, "expires_at": never})
    return {"models": found}


def ollama_show(model: Model, at: Timestamp) -> dict[str, Any]:
    """`POST /api/show`."""
    can = {"chat": "completion", "embeddings": "embedding"}
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "modified_at": at,
        "details": _details(model),
        "model_info": {"general.architecture": model.engine},
        "capabilities": [can[each] for each in model.capabilities if each in can],
    }


def spellings(name: str) -> tuple[str, ...]:
    """The names that `name` may stand for, as it was said first: to Ollama no tag and the tag `latest` are the same."""
    if name.endswith(LATEST):
        return name, name.removesuffix(LATEST)
    return (name,) if ":" in name else (name, name + LATEST)


def names(model: Model) -> list[str]:
    """What a model can be asked for by."""
    return [model.name, *model.aliases]


def named(models: Sequence[Model], name: str) -> Model | None:
    """The model of this name or alias; where several hosts have it, one that is loaded."""
    for spelling in spellings(name):
        found = [model for model in models if spelling in names(model)]
        if found:
            return min(found, key=lambda model: model.state not in LOADED)
    return None


def _one_each(models: Iterable[Model]) -> list[Model]:
    """One of each name that is to be listed, though several hosts have it: the one that is loaded, else the first."""
    found: dict[str, Model] = {}
    for model in (each for each in models if each.listed):
        if model.name not in found or (model.state in LOADED and found[model.name].state not in LOADED):
            found[model.name] = model
    return list(found.values())


def _ollama_model(name: str, model: Model, at: Timestamp) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": at,
        "size": model.footprint_bytes,
        "digest": "",
        "details": _details(model),
    }


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": model.engine,
        "family": model.engine,
        "families": [model.engine],
        "parameter_size": "",
        "quantization_level": "",
    }
