"""llama-server of llama.cpp: one model given at its start, or, started without one, a router over many.

Read from tools/server/README.md of ggml-org/llama.cpp. Every server saves and restores prompt caches, into the one folder it
was started with (`--slot-save-path`); a router wants the model's name in the body (#22373), builds before mid-2026 refuse both
for multimodal models (#25076) and in a router (#18703). Only a router loads and unloads when asked: it answers first
and works afterwards, ending the model's own process ten seconds later at the latest. A sleep exists only as its own idle
timer (`--sleep-idle-seconds`), and `/health`, `/props` and `/models` do not end it. The size it tells is that of the weights,
wherever they lie, without the KV cache.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

import msgspec

from common.config.models import Capability, EngineKind
from common.engines.engine import (
    ACT_S,
    LOAD_S,
    Claim,
    Health,
    LoadedModel,
    Power,
    SavedSlot,
    SlotsSaved,
)
from common.engines.exchange import Answer, deadline
from common.engines.over_http import OverHttp, by_status, claimed

POLL_S: Final = 0.1
"""How often a router is asked whether it has loaded what it said it would."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


class _Meta(msgspec.Struct, frozen=True):
    size: int | None = None


class _Status(msgspec.Struct, frozen=True):
    value: str
    failed: bool = False
    exit_code: int | None = None


class _Model(msgspec.Struct, frozen=True):
    id: str
    status: _Status | None = None
    meta: _Meta | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class _Health(msgspec.Struct, frozen=True):
    status: str


class _Props(msgspec.Struct, frozen=True):
    is_sleeping: bool = False


class _Slot(msgspec.Struct, frozen=True):
    id: int
    is_processing: bool = False


class _Saved(msgspec.Struct, frozen=True):
    n_saved: int


class _Restored(msgspec.Struct, frozen=True):
    n_restored: int


class _Success(msgspec.Struct, frozen=True):
    success: bool


class LlamaServer(OverHttp):
    """A llama-server, of one model or a router over several."""

    KIND: ClassVar[EngineKind] = "llama-server"
    CAPABILITIES: ClassVar[frozenset[Capability]] = frozenset(
        {"chat", "completions", "responses", "embeddings", "rerank"}
    )
    POWERS: ClassVar[frozenset[Power]] = frozenset({"load", "unload", "slots"})

    async def load(self, model: str, within_s: float = LOAD_S) -> Claim:
        """Has a router load the model, and waits until it says that it has."""
        return await claimed(self._load(model, deadline(within_s)))

    async def unload(self, model: str = "", within_s: float = ACT_S) -> Claim:
        """Has a router unload the model, or all it has loaded."""
        return await claimed(self._unload(model, deadline(within_s)))

    async def save_slots(self, name: str, model: str = "", within_s: float = ACT_S) -> SlotsSaved:
        """Writes what each idle slot holds to `name`-SLOT.bin; one that works on a request cannot be saved."""
        if _NAME.fullmatch(name) is None:
            return SlotsSaved(Claim(ok=False, text=f"{name!r} is no name for a file of slots"))
        saved: list[SavedSlot] = []
        claim = await claimed(self._save_slots(name, model, deadline(within_s), saved))
        return SlotsSaved(claim, tuple(saved))

    async def restore_slots(self, saved: Sequence[SavedSlot], model: str = "", within_s: float = ACT_S) -> Claim:
        """Reads the files back, each into the slot it came from; goes on after one that is refused."""
        return await claimed(self._restore_slots(saved, model, deadline(within_s)))

    async def _health(self, until: float) -> Health:
        """503 while the model loads; builds of 2024 answered it for want of a free slot as well, which is no failure."""
        answer = await self._get("/health", until)
        told = answer.told().lower()
        if answer.fine:
            answer.read(_Health)
        if answer.status != 503 or "loading" in told:
            return by_status(answer)
        return Health("ready") if "slot" in told else Health("failing", answer.line())

    async def _loaded(self, until: float) -> list[LoadedModel]:
        """The one model, or those that a router has not unloaded."""
        listed = (await self._get("/models", until)).read(_Models).data
        asleep = any(each.status is None for each in listed) and await self._asleep(until)
        states = [(each, _state(each, asleep=asleep)) for each in listed]
        return [LoadedModel(each.id, state, each.meta.size if each.meta else None) for each, state in states if state]

    async def _load(self, model: str, until: float) -> Claim:
        answer = await self._post("/models/load", until, {"model": model})
        if not (answer.fine and answer.read(_Success).success):
            return _of_router(answer)
        while True:
            listed = (await self._get("/models", until)).read(_Models).data
            status = next((each.status for each in listed if each.id == model), None)
            if status is None:
                return Claim(ok=False, text=f"it no longer lists {model}")
            if status.failed:
                return Claim(ok=False, text=f"{model} failed to load: its process ended with {status.exit_code}")
            if status.value in ("loaded", "sleeping"):
                return Claim(ok=True, text=f"{model} is {status.value}")
            await asyncio.sleep(POLL_S)

    async def _unload(self, model: str, until: float) -> Claim:
        said = []
        for name in [model] if model else [each.name for each in await self._loaded(until)]:
            answer = await self._post("/models/unload", until, {"model": name})
            if not (answer.fine and answer.read(_Success).success):
                return _of_router(answer)
            said.append(f"{name}: unloading")
        return Claim(ok=True, text="; ".join(said) or "it says that nothing is loaded")

    async def _asleep(self, until: float) -> bool:
        answer = await self._get("/props", until)
        return answer.fine and answer.read(_Props).is_sleeping

    async def _save_slots(self, name: str, model: str, until: float, saved: list[SavedSlot]) -> Claim:
        slots = (await self._get("/slots", until, {"model": model} if model else None)).read(list[_Slot])
        for slot in (each for each in slots if not each.is_processing):
            file = f"{name}-{slot.id}.bin"
            tokens = (await self._act_on_slot(slot.id, "save", file, model, until)).read(_Saved).n_saved
            if tokens:
                saved.append(SavedSlot(slot.id, file, tokens))
        busy = [str(slot.id) for slot in slots if slot.is_processing]
        told = f"{len(saved)} slots with {sum(each.tokens for each in saved)} tokens saved"
        return Claim(ok=not busy, text=told + (f"; busy: {', '.join(busy)}" if busy else ""))

    async def _restore_slots(self, saved: Sequence[SavedSlot], model: str, until: float) -> Claim:
        answers = [await self._act_on_slot(each.slot, "restore", each.file, model, until) for each in saved]
        refused = [answer.line() for answer in answers if not answer.fine]
        tokens = sum(answer.read(_Restored).n_restored for answer in answers if answer.fine)
        told = f"{len(answers) - len(refused)} slots with {tokens} tokens restored"
        return Claim(ok=not refused, text="; ".join([told, *refused]))

    async def _act_on_slot(self, slot: int, action: str, file: str, model: str, until: float) -> Answer:
        body = {"filename": file} | ({"model": model} if model else {})
        return await self._post(f"/slots/{slot}", until, body, {"action": action})


def _state(model: _Model, *, asleep: bool) -> Literal["loading", "loaded", "sleeping"] | None:
    """A router tells each model's state; a server of one model has it loaded as soon as it can describe it."""
    if model.status is None:
        if model.meta is None:
            return "loading"
        return "sleeping" if asleep else "loaded"
    match model.status.value:
        case "loading" | "loaded" | "sleeping" as told:
            return told
    return None


def _of_router(answer: Answer) -> Claim:
    if answer.status == 404:
        return Claim(ok=False, text=f"{answer.line()}; a llama-server with a model of its own is started and stopped")
    return Claim(ok=False, text=answer.line())
