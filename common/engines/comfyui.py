"""ComfyUI: workflows in a queue, models loaded by the jobs that need them, memory given up only between jobs.

Read from server.py, main.py (`prompt_worker`) and execution.py (`set_flag`) of comfyanonymous/ComfyUI. `POST /free` sets flags
and answers 200; the queue's worker acts on them when it next comes round: at once when it is idle, after the running job
otherwise. `unload_models` moves weights to host RAM, `free_memory` drops them from there as well (PR #3229), and `free_memory`
alone does both. torch keeps a cache of its own, custom nodes may hold models that no flag reaches: a claim like any other.
Here the first is `sleep`, both are `unload`; the next job wakes it without being asked.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from common.config.models import Capability, EngineKind
from common.engines.engine import ACT_S, ASK_S, LOAD_S, Claim, Health, LoadedModel, Power
from common.engines.exchange import deadline
from common.engines.over_http import OverHttp, by_answer, claimed
from common.errors import Unavailable

LOADER: Final = "CheckpointLoaderSimple"
"""The node whose description lists the checkpoints, where there is no list of their own yet."""


class _Device(msgspec.Struct, frozen=True):
    torch_vram_total: int = 0


class _SystemStats(msgspec.Struct, frozen=True):
    devices: list[_Device]


class _Queue(msgspec.Struct, frozen=True):
    queue_running: list[Any] = []


class _Required(msgspec.Struct, frozen=True):
    ckpt_name: list[Any]


class _Input(msgspec.Struct, frozen=True):
    required: _Required


class _Loader(msgspec.Struct, frozen=True):
    input: _Input


class ComfyUi(OverHttp):
    """A ComfyUI server."""

    KIND: ClassVar[EngineKind] = "comfyui"
    CAPABILITIES: ClassVar[frozenset[Capability]] = frozenset({"workflow"})
    POWERS: ClassVar[frozenset[Power]] = frozenset({"sleep", "unload"})

    async def upstream(self, model: str, within_s: float = ASK_S) -> str:
        """The name as it is: a workflow names its own files, and no request names a model."""
        return model

    async def sleep(self, within_s: float = ACT_S) -> Claim:
        """Weights to host RAM, once the running job is done."""
        return await claimed(self._free({"unload_models": True}, deadline(within_s)))

    async def wake(self, within_s: float = LOAD_S) -> Claim:
        """Nothing is asked: its next job brings back what it needs."""
        return Claim(ok=True, text="its next job loads what it needs")

    async def unload(self, model: str = "", within_s: float = ACT_S) -> Claim:
        """Everything out of VRAM and host RAM, once the running job is done; it does not unload one model alone."""
        return await claimed(self._free({"unload_models": True, "free_memory": True}, deadline(within_s)))

    async def _health(self, until: float) -> Health:
        (await self._get("/system_stats", until)).read(_SystemStats)
        return Health("ready")

    async def _models(self, until: float) -> list[str]:
        """The checkpoints it can load, by file name."""
        answer = await self._get("/models/checkpoints", until)
        if answer.status != 404:
            return answer.read(list[str])
        nodes = (await self._get(f"/object_info/{LOADER}", until)).read(dict[str, _Loader])
        names = nodes[LOADER].input.required.ckpt_name[:1] if LOADER in nodes else []
        if not (names and isinstance(names[0], list)):
            raise Unavailable(f"comfyui at {self.url} does not tell its checkpoints")
        return [str(name) for name in names[0]]

    async def _loaded(self, until: float) -> list[LoadedModel]:
        """One entry with what torch has reserved on all its devices: ComfyUI does not tell for which models."""
        stats = (await self._get("/system_stats", until)).read(_SystemStats)
        reserved = sum(device.torch_vram_total for device in stats.devices)
        return [LoadedModel("comfyui", "loaded", reserved)] if reserved else []

    async def _free(self, flags: dict[str, bool], until: float) -> Claim:
        answer = await self._post("/free", until, flags)
        if not answer.fine:
            return by_answer(answer)
        running = len((await self._get("/queue", until)).read(_Queue).queue_running)
        return Claim(ok=True, text=answer.line() + (f"; takes effect after {running} running jobs" if running else ""))
