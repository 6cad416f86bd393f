"""A stand-in for ComfyUI: `--listen [HOST] --port`; its checkpoints are STAND_IN_MODELS, a job takes STAND_IN_JOB_S.

A job loads what its CheckpointLoaderSimple nodes name. Memory goes between jobs, when `/free` asked for it. Every route exists
below /api as well.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import uuid
from typing import Any

from aiohttp import web

from tests.lab.engines.openai_routes import PNG
from tests.lab.engines.stand_in import GIB, Handler, Settings, StandIn, run

DEFAULT_MODELS = {"sd_xl_base_1.0.safetensors": 7 * GIB}
LOADER = "CheckpointLoaderSimple"
CONTEXT = "context"
"""What CUDA itself takes from the start on."""


class ComfyUi(StandIn):
    """One queue, one worker, the flags that it looks at between jobs."""

    kind = "comfyui"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.models = settings.models or DEFAULT_MODELS
        self.running: list[list[Any]] = []
        self.pending: list[list[Any]] = []
        self.history: dict[str, Any] = {}
        self.flags: dict[str, bool] = {}
        self.woken = asyncio.Event()
        self.number = 0
        gets: dict[str, Handler] = {
            "/system_stats": self._stats,
            "/queue": self._queue,
            "/prompt": self._remaining,
            "/history": self._histories,
            "/history/{id}": self._histories,
            "/object_info": self._nodes,
            "/object_info/{node}": self._nodes,
            "/models": self._folders,
            "/models/checkpoints": self._checkpoints,
            "/view": self._view,
        }
        posts: dict[str, Handler] = {
            "/prompt": self._prompt,
            "/queue": self._clear,
            "/free": self._free,
            "/interrupt": self._interrupt,
        }
        for start in ("", "/api"):
            self.app.add_routes([web.get(start + path, handler) for path, handler in gets.items()])
            self.app.add_routes([web.post(start + path, handler) for path, handler in posts.items()])

    async def begin(self) -> None:
        self.vram.hold(CONTEXT, self.settings.residual)

    async def ready(self) -> None:
        while True:
            await self.woken.wait()
            self.woken.clear()
            while self.pending:
                await self._work(self.pending.pop(0))
            self._look_at_flags()

    async def _work(self, job: list[Any]) -> None:
        self.running.append(job)
        for node in job[2].values():
            if node.get("class_type") == LOADER:
                name = node["inputs"]["ckpt_name"]
                await self.load(name, self.models[name])
        if self.settings.job_s:
            await asyncio.sleep(self.settings.job_s)
        self.running.clear()
        images = [{"filename": f"{job[1]}.png", "subfolder": "", "type": "output"}]
        self.history[job[1]] = {
            "prompt": job,
            "outputs": {"9": {"images": images}},
            "status": {"status_str": "success"},
        }
        self._look_at_flags()

    def _look_at_flags(self) -> None:
        flags, self.flags = self.flags, {}
        if flags.get("unload_models", flags.get("free_memory", False)):
            for name in self.models.keys() & self.vram.parts.keys():
                self.release(name)

    async def _stats(self, _: web.Request) -> web.Response:
        if self.lies("never_ready"):
            return web.json_response({"error": "not yet"}, status=503)
        held, total = self.vram.held, self.vram.total()
        device = {
            "name": "cuda:0 Simulated",
            "type": "cuda",
            "index": 0,
            "vram_total": total,
            "vram_free": total - held,
        }
        reserved = held - self.vram.parts.get(CONTEXT, 0)
        device |= {"torch_vram_total": self.seen(reserved), "torch_vram_free": 0}
        return web.json_response(
            {"system": {"os": "posix", "comfyui_version": "0.3.60", "argv": []}, "devices": [device]}
        )

    async def _queue(self, _: web.Request) -> web.Response:
        return web.json_response({"queue_running": self.running, "queue_pending": self.pending})

    async def _remaining(self, _: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": len(self.running) + len(self.pending)}})

    async def _histories(self, request: web.Request) -> web.Response:
        wanted = request.match_info.get("id")
        return web.json_response({key: job for key, job in self.history.items() if wanted in (None, key)})

    async def _nodes(self, request: web.Request) -> web.Response:
        described = {LOADER: {"input": {"required": {"ckpt_name": [list(self.models), {}]}}, "output": ["MODEL"]}}
        wanted = request.match_info.get("node")
        return web.json_response({name: node for name, node in described.items() if wanted in (None, name)})

    async def _folders(self, _: web.Request) -> web.Response:
        return web.json_response(["checkpoints", "loras", "vae"])

    async def _checkpoints(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.models))

    async def _view(self, _: web.Request) -> web.Response:
        return web.Response(body=base64.b64decode(PNG), content_type="image/png")

    async def _prompt(self, request: web.Request) -> web.Response:
        prompt = (await request.json()).get("prompt")
        if not prompt:
            return web.json_response({"error": "no prompt", "node_errors": []}, status=400)
        unknown = [
            node["inputs"]["ckpt_name"]
            for node in prompt.values()
            if node.get("class_type") == LOADER and node["inputs"]["ckpt_name"] not in self.models
        ]
        if unknown:
            return web.json_response(
                {"error": {"message": f"value not in list: {unknown[0]}"}, "node_errors": {}}, status=400
            )
        self.number += 1
        job = [self.number, str(uuid.uuid4()), prompt, {}, []]
        self.pending.append(job)
        self.woken.set()
        return web.json_response({"prompt_id": job[1], "number": job[0], "node_errors": {}})

    async def _clear(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.pending = [job for job in self.pending if not body.get("clear") and job[1] not in body.get("delete", [])]
        return web.Response()

    async def _free(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.acts.append(f"free {' '.join(sorted(flag for flag, wanted in body.items() if wanted))}")
        if answer := self.refused():
            return answer
        self.flags |= {flag: True for flag in ("unload_models", "free_memory") if body.get(flag)}
        self.woken.set()
        return web.Response()

    async def _interrupt(self, _: web.Request) -> web.Response:
        return web.Response()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", nargs="?", default="127.0.0.1", const="0.0.0.0")
    parser.add_argument("--port", type=int, default=8188)
    asked, _ = parser.parse_known_args()
    run(ComfyUi(Settings()), asked.listen, asked.port)


if __name__ == "__main__":
    main()
