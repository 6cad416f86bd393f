"""Which adapter speaks with which program, and which program answers at an address."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from common.config.models import EngineKind
from common.engines.comfyui import ComfyUi
from common.engines.engine import ASK_S, Engine
from common.engines.exchange import Answer, Exchange, deadline
from common.engines.llama_server import LlamaServer
from common.engines.ollama import Ollama
from common.engines.openai import OpenAi
from common.engines.over_http import OverHttp
from common.engines.vllm import Vllm
from common.errors import TandemError

ADAPTERS: Final[Mapping[EngineKind, type[OverHttp]]] = MappingProxyType(
    {"llama-server": LlamaServer, "vllm": Vllm, "ollama": Ollama, "comfyui": ComfyUi, "openai": OpenAi}
)

DEFAULT_PORTS: Final[Mapping[int, EngineKind]] = MappingProxyType(
    {8080: "llama-server", 8000: "vllm", 11434: "ollama", 8188: "comfyui"}
)
"""Where each program listens unless told otherwise; who really answers there is asked (`recognise`)."""


def open_engine(kind: EngineKind, url: str, api_key: str = "", health_path: str = "") -> Engine:
    """The adapter for that program at that address; it connects when first asked. Close it when done.

    `url` may end with a slash or with `/v1`. `health_path` replaces the program's own health question.
    """
    return ADAPTERS[kind](Exchange(url, api_key), health_path)


async def recognise(url: str, within_s: float = ASK_S) -> EngineKind | None:
    """Which program answers at `url`, by what only that program says; None where it is none of them or nobody is there."""
    exchange, until = Exchange(url), deadline(within_s)
    try:
        for path, shape, kind in _MARKS:
            answer = await exchange.ask("GET", path, until)
            if _fits(answer, shape):
                return kind or _by_owner(answer)
    except TandemError:
        return None
    finally:
        await exchange.close()
    return None


class _OllamaTags(msgspec.Struct, frozen=True):
    models: list[dict[str, object]] | None


class _ComfyUiStats(msgspec.Struct, frozen=True):
    system: dict[str, object]
    devices: list[dict[str, object]]


class _Owned(msgspec.Struct, frozen=True):
    owned_by: str = ""


class _OpenAiModels(msgspec.Struct, frozen=True):
    data: list[_Owned]


class _LlamaProps(msgspec.Struct, frozen=True):
    default_generation_settings: dict[str, object]


_MARKS: Final[tuple[tuple[str, type[msgspec.Struct], EngineKind | None], ...]] = (
    ("/system_stats", _ComfyUiStats, "comfyui"),
    ("/props", _LlamaProps, "llama-server"),
    ("/api/ps", _OllamaTags, "ollama"),
    ("/v1/models", _OpenAiModels, None),
)


def _fits(answer: Answer, shape: type[msgspec.Struct]) -> bool:
    try:
        answer.read(shape)
    except TandemError:
        return False
    return True


def _by_owner(answer: Answer) -> EngineKind:
    """llama-server signs its models with `llamacpp` and vLLM its own with `vllm`; a router may list none yet."""
    owners = {model.owned_by for model in answer.read(_OpenAiModels).data}
    if "llamacpp" in owners:
        return "llama-server"
    return "vllm" if "vllm" in owners else "openai"
