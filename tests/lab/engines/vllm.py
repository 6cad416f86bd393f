"""A stand-in for vLLM: `[serve] MODEL --host --port --served-model-name --gpu-memory-utilization --enable-sleep-mode --api-key`.

It listens once its model is loaded, as vLLM does. Its sleep endpoints exist with VLLM_SERVER_DEV_MODE=1; without
--enable-sleep-mode they answer 500. A sleep ends what is being generated; requests wait while it sleeps.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.lab.engines.openai_routes import NoModel, OpenAiRoutes, Turn
from tests.lab.engines.openai_server import key_check
from tests.lab.engines.stand_in import Settings, StandIn, run

TAGS = ("weights", "kv_cache")


class Vllm(StandIn):
    """One model; asleep while any of its memory is."""

    kind = "vllm"

    def __init__(self, settings: Settings, asked: argparse.Namespace, *, dev_mode: bool) -> None:
        super().__init__(settings)
        self.names: list[str] = asked.served_model_name or [asked.model]
        self.amount = settings.vram or int(self.vram.total() * asked.gpu_memory_utilization)
        self.file: str = asked.model
        self.can_sleep = asked.enable_sleep_mode
        self.asleep: set[str] = set()
        self.weights_gone = False
        self.awake = asyncio.Event()
        self.turns: set[Turn] = set()
        self.app.add_routes([web.get("/health", self._health), web.get("/version", self._version)])
        self.app.add_routes([web.get("/v1/models", self._models)])
        if dev_mode:
            self.app.add_routes([web.post("/sleep", self._sleep), web.post("/wake_up", self._wake)])
            self.app.add_routes([web.get("/is_sleeping", self._told_asleep), web.post("/collective_rpc", self._rpc)])
        OpenAiRoutes(self, self._enter)
        if asked.api_key:
            self.app.middlewares.append(key_check(asked.api_key))  # type: ignore[arg-type]

    async def begin(self) -> None:
        if self.lies("never_ready"):
            await asyncio.Event().wait()
        await self.load("model", self.amount, file=self.file)
        self.awake.set()

    @asynccontextmanager
    async def _enter(self, model: str, _: str) -> AsyncIterator[Turn]:
        if model not in self.names:
            raise NoModel(model)
        await self.awake.wait()
        turn = Turn()
        self.turns.add(turn)
        try:
            yield turn
        finally:
            self.turns.discard(turn)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.15.0"})

    async def _models(self, _: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "vllm"} for name in self.names]
        return web.json_response({"object": "list", "data": listed})

    async def _told_asleep(self, _: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": bool(self.asleep)})

    async def _sleep(self, request: web.Request) -> web.Response:
        level = int(request.query.get("level", "1"))
        self.acts.append(f"sleep {level}")
        if answer := self.refused() or self._unable():
            return answer
        self.awake.clear()
        for turn in self.turns:
            turn.alive = False
        self.asleep = set(TAGS)
        self.weights_gone = self.weights_gone or level == 2
        self.release("model", self.settings.residual)
        return web.Response()

    async def _wake(self, request: web.Request) -> web.Response:
        tags = set(request.query.getall("tags", list(TAGS)))
        self.acts.append(f"wake_up {' '.join(sorted(tags))}")
        if answer := self.refused() or self._unable():
            return answer
        if self.lies("wake_leaks"):
            await self.load("model", self.amount // 2, self.settings.wake_s / 2)
            return failed("CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:163")
        left = self.asleep - tags
        await self.load("model", self.amount // (2 if left else 1), self.settings.wake_s)
        self.asleep = left
        if not left:
            self.awake.set()
        return web.Response()

    async def _rpc(self, request: web.Request) -> web.Response:
        method = (await request.json())["method"]
        self.acts.append(method)
        if answer := self.refused():
            return answer
        if self.settings.load_s:
            await asyncio.sleep(self.settings.load_s)
        self.weights_gone = self.weights_gone and method != "reload_weights"
        return web.json_response({"results": [None]})

    def _unable(self) -> web.Response | None:
        return None if self.can_sleep else failed("Sleep mode is not enabled in the model config")


def failed(message: str) -> web.Response:
    told: dict[str, Any] = {"message": message, "type": "InternalServerError", "code": 500}
    return web.json_response({"error": told}, status=500)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--model", default="")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--api-key", default="")
    asked, _ = parser.parse_known_args()
    given = [word for word in asked.words if word != "serve"]
    asked.model = asked.model or (given[0] if given else "stand-in")
    dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"
    run(Vllm(Settings(), asked, dev_mode=dev_mode), asked.host, asked.port)


if __name__ == "__main__":
    main()
