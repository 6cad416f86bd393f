"""A stand-in for Ollama: `serve`, at OLLAMA_HOST, with OLLAMA_KEEP_ALIVE; its models are STAND_IN_MODELS.

A model whose name has `embed` or `minilm` in it only embeds. An unload is answered before it happens, and waits for the
requests under way.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.lab.engines.openai_routes import NoModel, OpenAiRoutes, Turn, embedding, prompt_of
from tests.lab.engines.stand_in import GIB, Settings, StandIn, run

DEFAULT_MODELS = {"llama3.2:latest": 2 * GIB, "all-minilm:latest": GIB // 4}
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
FOREVER = -1.0


def seconds(value: Any) -> float:
    """A keep_alive: a number of seconds or Go's words for a duration; below zero is for ever."""
    if isinstance(value, (int, float)):
        return float(value)
    if re.fullmatch(r"-?\d+", value):
        return float(value)
    sign = -1.0 if value.startswith("-") else 1.0
    return sign * sum(float(amount) * UNITS_S[unit] for amount, unit in re.findall(r"([\d.]+)(ms|[smh])", value))


def tagged(name: str) -> str:
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


class Ollama(StandIn):
    """Its models, which of them it says are loaded, and until when."""

    kind = "ollama"

    def __init__(self, settings: Settings, keep_alive: str) -> None:
        super().__init__(settings)
        self.models = {tagged(name): amount for name, amount in settings.models.items()} or dict(DEFAULT_MODELS)
        self.loaded: dict[str, float] = {}
        self.busy: dict[str, int] = {}
        self.keep_alive = seconds(keep_alive)
        self.timers: dict[str, asyncio.TimerHandle] = {}
        routes = OpenAiRoutes(self, self._enter_chat)
        self._tokens = routes.tokens
        posts = {"generate": self._generate, "chat": self._chat, "embed": self._embed, "show": self._show}
        gets = {"version": self._version, "tags": self._tags, "ps": self._ps}
        self.app.add_routes([web.get("/", self._root), web.get("/v1/models", self._openai_models)])
        self.app.add_routes([web.post(f"/api/{path}", self._safe(handler)) for path, handler in posts.items()])
        self.app.add_routes([web.get(f"/api/{path}", handler) for path, handler in gets.items()])

    def _safe(self, handler: Callable[[dict[str, Any], web.Request], Awaitable[web.StreamResponse]]) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                body = json.loads(await request.read())
                return await handler(body, request)
            except NoModel as error:
                return web.json_response({"error": f"model '{error}' not found"}, status=404)
            except (json.JSONDecodeError, KeyError) as error:
                return web.json_response({"error": f"bad request: {error!r}"}, status=400)

        return handle

    def _known(self, name: str) -> str:
        if tagged(name) not in self.models:
            raise NoModel(name)
        return tagged(name)

    @asynccontextmanager
    async def _enter_chat(self, model: str, _: str) -> AsyncIterator[Turn]:
        async with self._enter(self._known(model), None) as turn:
            yield turn

    @asynccontextmanager
    async def _enter(self, name: str, keep_alive: Any) -> AsyncIterator[Turn]:
        if (timer := self.timers.pop(name, None)) is not None:
            timer.cancel()
        if name not in self.loaded:
            await self.load(name, self.models[name])
        keep_s = self.keep_alive if keep_alive is None else seconds(keep_alive)
        self.loaded[name] = keep_s
        self.busy[name] = self.busy.get(name, 0) + 1
        try:
            yield Turn()
        finally:
            self.busy[name] -= 1
            if not self.busy[name]:
                self._rest(name)

    def _rest(self, name: str) -> None:
        """The last request is done: the timer starts, or the unload that waited for it happens."""
        keep_s = self.loaded.get(name, 0.0)
        if keep_s == 0:
            self._drop(name)
        elif keep_s > 0:
            self.timers[name] = asyncio.get_running_loop().call_later(keep_s, self._drop, name)

    def _drop(self, name: str) -> None:
        self.timers.pop(name, None)
        self.loaded.pop(name, None)
        self.release(name)

    def _expire(self, name: str) -> None:
        if name in self.loaded and self.busy.get(name):
            self.loaded[name] = 0.0
        elif name in self.loaded:
            asyncio.get_running_loop().call_soon(self._drop, name)

    async def _root(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _: web.Request) -> web.Response:
        if self.lies("never_ready"):
            return web.json_response({"error": "not yet"}, status=500)
        return web.json_response({"version": "0.32.3"})

    async def _tags(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [self._described(name) for name in self.models]})

    async def _openai_models(self, _: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "library"} for name in self.models]
        return web.json_response({"object": "list", "data": listed})

    async def _ps(self, _: web.Request) -> web.Response:
        listed = [
            self._described(name)
            | {"size": self.seen(self.models[name]), "size_vram": self.seen(self.models[name])}
            | {"expires_at": "2318-01-01T00:00:00Z"}
            for name in self.loaded
        ]
        return web.json_response({"models": listed})

    def _described(self, name: str) -> dict[str, Any]:
        details = {"format": "gguf", "family": "llama", "parameter_size": "7B", "quantization_level": "Q4_0"}
        return {
            "name": name,
            "model": name,
            "size": self.models[name],
            "digest": f"{hash(name):016x}",
            "details": details,
        }

    async def _show(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        name = self._known(body.get("model") or body["name"])
        return web.json_response(
            self._described(name) | {"capabilities": ["embedding" if embeds(name) else "completion"]}
        )

    async def _generate(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return await self._talk(body, request, body.get("prompt") or "", "generate", lambda text: {"response": text})

    async def _chat(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        def shape(text: str) -> dict[str, Any]:
            return {"message": {"role": "assistant", "content": text}}

        return await self._talk(body, request, prompt_of(body.get("messages") or []), "chat", shape)

    async def _talk(
        self, body: dict[str, Any], request: web.Request, prompt: str, what: str, shape: Callable[[str], dict[str, Any]]
    ) -> web.StreamResponse:
        name, keep_alive = self._known(body["model"]), body.get("keep_alive")
        empty = not (body.get("prompt") or body.get("messages"))
        if empty:
            self.acts.append(f"{'unload' if keep_alive is not None and seconds(keep_alive) == 0 else 'load'} {name}")
            if answer := self.refused():
                return answer
        base = {"model": body["model"], "created_at": datetime.now(UTC).isoformat()}
        if empty and keep_alive is not None and seconds(keep_alive) == 0:
            self._expire(name)
            return web.json_response(base | shape("") | {"done": True, "done_reason": "unload"})
        if embeds(name):
            return web.json_response({"error": f'"{body["model"]}" does not support {what}'}, status=400)
        began = time.monotonic_ns()
        async with self._enter(name, keep_alive) as turn:
            if empty:
                return web.json_response(base | shape("") | {"done": True, "done_reason": "load"})
            return await self._tell_all(turn, prompt, body, request, base, shape, began)

    async def _tell_all(
        self,
        turn: Turn,
        prompt: str,
        body: dict[str, Any],
        request: web.Request,
        base: dict[str, Any],
        shape: Callable[[str], dict[str, Any]],
        began: int,
    ) -> web.StreamResponse:
        options = body.get("options") or {}
        limits = {"max_tokens": options.get("num_predict"), "ignore_eos": options.get("ignore_eos")}
        response = None
        if body.get("stream", True):
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await response.prepare(request)
        text, count, why = "", 0, ""
        async for token, reason in self._tokens(turn, prompt, limits):
            text, count, why = text + token, count + bool(token), reason
            if response and token:
                await response.write(json.dumps(base | shape(token) | {"done": False}).encode() + b"\n")
        figures = {
            "total_duration": time.monotonic_ns() - began,
            "eval_count": count,
            "prompt_eval_count": len(prompt.split()),
        }
        done = base | shape("" if response else text) | {"done": True, "done_reason": why} | figures
        if response is None:
            return web.json_response(done)
        await response.write(json.dumps(done).encode() + b"\n")
        return response

    async def _embed(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        name = self._known(body["model"])
        given = body.get("input") or []
        texts = [given] if isinstance(given, str) else given
        async with self._enter(name, body.get("keep_alive")):
            return web.json_response({"model": body["model"], "embeddings": [embedding(str(text)) for text in texts]})


def embeds(name: str) -> bool:
    return "embed" in name or "minilm" in name


def main() -> None:
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").removeprefix("http://").partition(":")
    run(Ollama(Settings(), os.environ.get("OLLAMA_KEEP_ALIVE", "5m")), host or "127.0.0.1", int(port or 11434))


if __name__ == "__main__":
    main()
