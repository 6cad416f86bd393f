"""A stand-in for llama-server: `-m FILE --alias --host --port -np --slot-save-path --api-key --sleep-idle-seconds`, or a router.

Without a model it is a router over STAND_IN_MODELS and the files of --models-dir. It listens at once and answers 503 while it
loads. A prompt's words are its tokens: a slot reuses those that its last prompt began with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.lab.engines.openai_routes import NoModel, OpenAiRoutes, Turn
from tests.lab.engines.openai_server import key_check
from tests.lab.engines.stand_in import GIB, Handler, Settings, StandIn, run

OPEN_WHILE_LOADING = ("/health", "/v1/health", "/models", "/v1/models", "/stand-in")


class Slot:
    """One prompt cache: the words it holds."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.words: list[str] = []
        self.busy = False

    def begin(self, prompt: str) -> int:
        """Takes the prompt; how many of its words were there already."""
        words = prompt.split()
        same = next((i for i, (a, b) in enumerate(zip(words, self.words, strict=False)) if a != b), None)
        reused = min(len(words), len(self.words)) if same is None else same
        self.words, self.busy = words, True
        return reused


class Model:
    """One model that the server knows: `state` as a router tells it."""

    def __init__(self, name: str, amount: int, slots: int, file: str) -> None:
        self.name = name
        self.file = file
        self.amount = amount
        self.state = "unloaded"
        self.slots = [Slot(number) for number in range(slots)]
        self.room = asyncio.Semaphore(slots)


class LlamaServer(StandIn):
    """One model, loaded at the start and asleep when idle, or several, loaded when asked for."""

    kind = "llama-server"

    def __init__(self, settings: Settings, asked: argparse.Namespace) -> None:
        super().__init__(settings)
        self.router = not asked.model
        self.slot_path = Path(asked.slot_save_path) if asked.slot_save_path else None
        self.idle_s: float = asked.sleep_idle_seconds
        self.idle: asyncio.TimerHandle | None = None
        folder = Path(asked.models_dir)
        self.models = {
            name: Model(name, amount, asked.parallel, asked.model or str(folder / f"{name}.gguf"))
            for name, amount in known(settings, asked).items()
        }
        self.app.middlewares.append(self._wait_for_it)
        if asked.api_key:
            self.app.middlewares.append(key_check(asked.api_key))  # type: ignore[arg-type]
        gets: dict[str, Handler] = {"/health": self._health, "/props": self._props, "/slots": self._slots}
        gets |= {"/models": self._listed, "/v1/models": self._listed}
        self.app.add_routes([web.get(path, handler) for path, handler in gets.items()])
        self.app.add_routes([web.post("/slots/{id}", self._slot)])
        if self.router:
            self.app.add_routes(
                [web.post("/models/load", self._load_one), web.post("/models/unload", self._unload_one)]
            )
        OpenAiRoutes(self, self._enter)

    @property
    def only(self) -> Model:
        return next(iter(self.models.values()))

    async def ready(self) -> None:
        if not self.router:
            await self._bring(self.only)

    async def _bring(self, model: Model) -> None:
        if model.state != "loaded":
            model.state = "loading"
            await self.load(model.name, model.amount, file=model.file)
            if not self.lies("never_ready"):
                model.state = "loaded"

    @web.middleware
    async def _wait_for_it(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.router and self.only.state == "loading" and request.path not in OPEN_WHILE_LOADING:
            return loading()
        return await handler(request)

    @asynccontextmanager
    async def _enter(self, name: str, prompt: str) -> AsyncIterator[Turn]:
        model = self.models.get(name) if self.router else self.only
        if model is None:
            raise NoModel(name)
        await self._bring(model)
        if self.idle is not None:
            self.idle.cancel()
        async with model.room:
            slot = next(slot for slot in model.slots if not slot.busy)
            turn = Turn(slot.begin(prompt))
            try:
                yield turn
            finally:
                slot.busy = False
                if self.idle_s > 0:
                    self.idle = asyncio.get_running_loop().call_later(self.idle_s, self._doze)

    def _doze(self) -> None:
        for model in self.models.values():
            model.state = "sleeping"
            for slot in model.slots:
                slot.words = []
            self.release(model.name)

    async def _health(self, _: web.Request) -> web.Response:
        if not self.router and self.only.state == "loading":
            return loading()
        return web.json_response({"status": "ok"})

    async def _props(self, _: web.Request) -> web.Response:
        told: dict[str, Any] = {
            "default_generation_settings": {"n_ctx": 4096},
            "total_slots": 1,
            "build_info": "b9999-standin",
        }
        if self.router:
            return web.json_response(told | {"role": "router"})
        slots = len(self.only.slots)
        return web.json_response(told | {"total_slots": slots, "is_sleeping": self.only.state == "sleeping"})

    async def _listed(self, _: web.Request) -> web.Response:
        data = [self._described(model) for model in self.models.values()]
        return web.json_response({"object": "list", "data": data})

    def _described(self, model: Model) -> dict[str, Any]:
        there = model.state in ("loaded", "sleeping")
        meta = {"n_params": 8030261312, "size": self.seen(model.amount)} if there else None
        told = {"id": model.name, "object": "model", "created": 0, "owned_by": "llamacpp", "meta": meta}
        return told | ({"status": {"value": model.state}} if self.router else {})

    async def _load_one(self, request: web.Request) -> web.Response:
        model = self.models.get((await request.json())["model"])
        self.acts.append(f"load {model.name if model else ''}")
        if answer := self.refused():
            return answer
        if model is None:
            return refusal(400, "model not found")
        model.state = "loading"
        self.later(self._bring(model))
        return web.json_response({"success": True})

    async def _unload_one(self, request: web.Request) -> web.Response:
        model = self.models.get((await request.json())["model"])
        self.acts.append(f"unload {model.name if model else ''}")
        if answer := self.refused():
            return answer
        if model is None or model.state == "unloaded":
            return refusal(400, "model is not loaded")
        model.state = "unloaded"
        self.release(model.name)
        return web.json_response({"success": True})

    def _slots_of(self, name: str | None) -> Model | web.Response:
        if not self.router:
            return self.only
        model = self.models.get(name or "")
        return model or refusal(400, "model name is missing from the request")

    async def _slots(self, request: web.Request) -> web.Response:
        model = self._slots_of(request.query.get("model"))
        if isinstance(model, web.Response):
            return model
        return web.json_response(
            [{"id": each.number, "n_ctx": 4096, "is_processing": each.busy} for each in model.slots]
        )

    async def _slot(self, request: web.Request) -> web.Response:
        body = await request.json()
        model, action = self._slots_of(body.get("model")), request.query.get("action", "")
        self.acts.append(f"{action} slot {request.match_info['id']}")
        if isinstance(model, web.Response):
            return model
        if self.slot_path is None:
            return refusal(501, "This server does not support slots action. Start it with `--slot-save-path`")
        if answer := self.refused():
            return answer
        slot, name = model.slots[int(request.match_info["id"])], body["filename"]
        if not re.fullmatch(r"[^/\\:]+", name):
            return refusal(400, "Invalid filename")
        file, told = self.slot_path / name, {"id_slot": slot.number, "filename": name}
        if action == "save":
            written = file.write_text(json.dumps(slot.words))
            return web.json_response(
                told | {"n_saved": len(slot.words), "n_written": written, "timings": {"save_ms": 1.0}}
            )
        if not file.exists():
            return refusal(400, "Unable to restore slot, no available space in KV cache or invalid slot save file")
        slot.words = json.loads(file.read_text())
        return web.json_response(told | {"n_restored": len(slot.words), "timings": {"restore_ms": 1.0}})


def known(settings: Settings, asked: argparse.Namespace) -> dict[str, int]:
    """The models by the name that the server lists them under, and what each takes."""
    amount = settings.vram or 4 * GIB
    if asked.model:
        return {asked.alias or asked.model: amount}
    files = sorted(Path(asked.models_dir).glob("*.gguf")) if asked.models_dir else []
    return settings.models | {file.stem: amount for file in files}


def loading() -> web.Response:
    return refusal(503, "Loading model", "unavailable_error")


def refusal(code: int, message: str, kind: str = "invalid_request_error") -> web.Response:
    return web.json_response({"error": {"code": code, "message": message, "type": kind}}, status=code)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", default="")
    parser.add_argument("-a", "--alias", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("-np", "--parallel", type=int, default=1)
    parser.add_argument("--slot-save-path", default="")
    parser.add_argument("--models-dir", default="")
    parser.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY", ""))
    parser.add_argument("--sleep-idle-seconds", type=float, default=-1)
    asked, _ = parser.parse_known_args()
    run(LlamaServer(Settings(), asked), asked.host, asked.port)


if __name__ == "__main__":
    main()
