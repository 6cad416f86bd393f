"""A stand-in for any server that speaks OpenAI's API: `--model NAME` (may be repeated) `--host --port --api-key`."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from tests.lab.engines.openai_routes import NoModel, OpenAiRoutes, Turn
from tests.lab.engines.stand_in import GIB, Handler, Settings, StandIn, run


def key_check(api_key: str) -> Handler:
    """Middleware that wants the bearer key for everything below /v1."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {api_key}":
            told = {"message": "Invalid API Key", "type": "authentication_error", "code": 401}
            return web.json_response({"error": told}, status=401)
        return await handler(request)

    return check  # type: ignore[return-value]


class OpenAiServer(StandIn):
    """Loads its models before it is ready; answers 503 until then."""

    kind = "openai"

    def __init__(self, settings: Settings, models: Sequence[str], api_key: str) -> None:
        super().__init__(settings)
        self.models = list(models)
        self.up = False
        self.app.add_routes([web.get("/v1/models", self._models), web.get("/health", self._health)])
        OpenAiRoutes(self, self._enter)
        if api_key:
            self.app.middlewares.append(key_check(api_key))  # type: ignore[arg-type]

    async def ready(self) -> None:
        await self.load("model", self.settings.vram or 4 * GIB)
        self.up = not self.lies("never_ready")

    @asynccontextmanager
    async def _enter(self, model: str, _: str) -> AsyncIterator[Turn]:
        if model not in self.models:
            raise NoModel(model)
        yield Turn()

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok" if self.up else "loading"}, status=200 if self.up else 503)

    async def _models(self, _: web.Request) -> web.Response:
        if not self.up:
            return web.json_response({"error": {"message": "still loading"}}, status=503)
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "stand-in"} for name in self.models]
        return web.json_response({"object": "list", "data": listed})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key", default="")
    asked, _ = parser.parse_known_args()
    run(OpenAiServer(Settings(), asked.model or ["stand-in"], asked.api_key), asked.host, asked.port)


if __name__ == "__main__":
    main()
