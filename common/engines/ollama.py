"""Ollama: many models in one server, loaded when asked for, and unloaded by a timer of its own unless told otherwise.

Read from docs/api.md and server/routes.go of ollama/ollama. A request without a prompt loads; `keep_alive` 0 unloads and -1 keeps
without a timer. The answer to an unload comes before anything is unloaded (`expireRunner` only marks it, and a runner with
requests under way stays until they end), and the figures of `/api/ps` are estimates: 12 GB said where 90 were held (#17251),
22 for 16 (#6160), VRAM kept after an unload (#7606). Every request without a `keep_alive` of its own starts the server's
five-minute timer again; OLLAMA_KEEP_ALIVE=-1 in its environment turns that off.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from common.config.models import Capability, EngineKind
from common.engines.engine import ACT_S, LOAD_S, Claim, Health, LoadedModel, Power
from common.engines.exchange import Answer, deadline
from common.engines.over_http import OverHttp, by_answer, claimed


class _Version(msgspec.Struct, frozen=True):
    version: str


class _Tag(msgspec.Struct, frozen=True):
    name: str


class _Tags(msgspec.Struct, frozen=True):
    models: list[_Tag] | None


class _Running(msgspec.Struct, frozen=True):
    name: str
    size: int = 0
    size_vram: int = 0


class _Ps(msgspec.Struct, frozen=True):
    models: list[_Running] | None


class _Done(msgspec.Struct, frozen=True):
    done_reason: str = ""


class Ollama(OverHttp):
    """An Ollama server."""

    KIND: ClassVar[EngineKind] = "ollama"
    CAPABILITIES: ClassVar[frozenset[Capability]] = frozenset(
        {"chat", "completions", "responses", "embeddings", "ollama"}
    )
    POWERS: ClassVar[frozenset[Power]] = frozenset({"load", "unload"})

    async def load(self, model: str, within_s: float = LOAD_S) -> Claim:
        """Loads it without a timer; one that only embeds is loaded by an empty embedding."""
        return await claimed(self._load(model, deadline(within_s)))

    async def unload(self, model: str = "", within_s: float = ACT_S) -> Claim:
        """Has the model, or all that `/api/ps` names, marked to be unloaded."""
        return await claimed(self._unload(model, deadline(within_s)))

    async def _health(self, until: float) -> Health:
        (await self._get("/api/version", until)).read(_Version)
        return Health("ready")

    async def _models(self, until: float) -> list[str]:
        """The models on its disk, with their tags."""
        return [tag.name for tag in (await self._get("/api/tags", until)).read(_Tags).models or []]

    async def _loaded(self, until: float) -> list[LoadedModel]:
        """What `/api/ps` says; it leaves out a size in VRAM that is none (#4840)."""
        running = (await self._get("/api/ps", until)).read(_Ps).models or []
        return [
            LoadedModel(each.name, "loaded", each.size_vram, max(0, each.size - each.size_vram)) for each in running
        ]

    async def _load(self, model: str, until: float) -> Claim:
        answer = await self._keep(model, -1, until)
        if answer.status == 400 and "does not support" in answer.told():
            answer = await self._post("/api/embed", until, {"model": model, "input": "", "keep_alive": -1})
        if answer.fine:
            return Claim(ok=True, text=f"{model}: {answer.read(_Done).done_reason or 'load'}")
        return by_answer(answer)

    async def _unload(self, model: str, until: float) -> Claim:
        said = []
        for name in [model] if model else [each.name for each in await self._loaded(until)]:
            answer = await self._keep(name, 0, until)
            if not answer.fine:
                return by_answer(answer)
            said.append(f"{name}: {answer.read(_Done).done_reason or 'done'}")
        return Claim(ok=True, text="; ".join(said) or "it says that nothing is loaded")

    async def _keep(self, model: str, keep_alive: int, until: float) -> Answer:
        body: dict[str, Any] = {"model": model, "keep_alive": keep_alive, "stream": False}
        return await self._post("/api/generate", until, body)
