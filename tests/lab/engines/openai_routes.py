"""OpenAI's HTTP API as the stand-ins speak it: deterministic tokens, streamed or whole.

The answer to a text is `echo:` and its words; `max_tokens` cuts it, and with `ignore_eos` the words repeat until it is reached.
An embedding is eight numbers made from the text.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from aiohttp import web

from tests.lab.engines.stand_in import StandIn

Entered = Callable[[str, str], AbstractAsyncContextManager["Turn"]]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
DIMENSIONS = 8


class Turn:
    """One request's time with the model: `alive` turns false where the server cuts it off; `cached` prompt tokens are reused."""

    def __init__(self, cached: int = 0) -> None:
        self.alive = True
        self.cached = cached


class NoModel(Exception):
    """The server has no such model."""


def words(prompt: str, body: dict[str, Any]) -> tuple[list[str], str]:
    """The tokens of the answer, and why it ends."""
    found = ["echo:", *prompt.split()]
    most = body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens")
    if most and body.get("ignore_eos"):
        found = [found[index % len(found)] for index in range(int(most))]
    cut = bool(most) and len(found) > int(most or 0)
    found = found[: int(most or 0)] if cut else found
    return [word if index == 0 else f" {word}" for index, word in enumerate(found)], "length" if cut else "stop"


def prompt_of(messages: Any) -> str:
    """The last user's words, from a text, a list of messages, or messages in parts."""
    if isinstance(messages, str):
        return messages
    last = next((each for each in reversed(messages) if each.get("role", "user") == "user"), {"content": ""})
    content = last.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def embedding(text: str) -> list[float]:
    """The same numbers for the same text, in [-1, 1)."""
    return [byte / 128 - 1 for byte in hashlib.sha256(text.encode()).digest()[:DIMENSIONS]]


class OpenAiRoutes:
    """Adds the routes to a stand-in; `enter(model, prompt)` loads the model or raises NoModel, and holds it for a request."""

    def __init__(self, stand_in: StandIn, enter: Entered) -> None:
        self._stand_in = stand_in
        self._enter = enter
        routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            "chat/completions": self._chat,
            "completions": self._complete,
            "responses": self._respond,
            "embeddings": self._embed,
            "rerank": self._rerank,
            "audio/speech": self._speak,
            "audio/transcriptions": self._transcribe,
            "images/generations": self._draw,
        }
        stand_in.app.add_routes([web.post(f"/v1/{path}", self._safe(handler)) for path, handler in routes.items()])

    async def tokens(self, turn: Turn, prompt: str, body: dict[str, Any]) -> AsyncIterator[tuple[str, str]]:
        """Each token with nothing, then nothing with the reason of the end."""
        found, why = words(prompt, body)
        for token in found:
            if self._stand_in.settings.token_s:
                await asyncio.sleep(self._stand_in.settings.token_s)
            if not turn.alive:
                yield "", "abort"
                return
            yield token, ""
        yield "", why

    def _safe(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except NoModel as error:
                told = {"message": f"The model `{error}` does not exist.", "type": "NotFoundError", "code": 404}
                return web.json_response({"error": told}, status=404)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                told = {"message": f"bad request: {error!r}", "type": "invalid_request_error", "code": 400}
                return web.json_response({"error": told}, status=400)

        return handle

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = prompt_of(body["messages"])

        def part(token: str, why: str) -> dict[str, Any]:
            delta = {"content": token} if token else {}
            return {"index": 0, "delta": delta, "finish_reason": why or None}

        def whole(text: str, why: str) -> dict[str, Any]:
            return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": why}

        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return await self._answer(
            request, body, prompt, ("chat.completion.chunk", first, part), ("chat.completion", whole)
        )

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["prompt"] if isinstance(body["prompt"], str) else " ".join(body["prompt"])

        def part(token: str, why: str) -> dict[str, Any]:
            return {"index": 0, "text": token, "finish_reason": why or None}

        return await self._answer(request, body, prompt, ("text_completion", None, part), ("text_completion", part))

    async def _answer(
        self, request: web.Request, body: dict[str, Any], prompt: str, stream: Any, once: Any
    ) -> web.StreamResponse:
        async with self._enter(str(body.get("model", "")), prompt) as turn:
            base = {
                "id": f"cmpl-{self._stand_in.requests}",
                "created": int(time.time()),
                "model": body.get("model", ""),
            }
            count = 0
            if not body.get("stream"):
                text, why = "", ""
                async for token, reason in self.tokens(turn, prompt, body):
                    text, why, count = text + token, reason, count + bool(token)
                told = {"object": once[0], "choices": [once[1](text, why)], "usage": usage(prompt, count, turn)}
                return web.json_response(base | told)
            response = await event_stream(request)
            if stream[1]:
                await say(response, base | {"object": stream[0], "choices": [stream[1]]})
            async for token, reason in self.tokens(turn, prompt, body):
                count += bool(token)
                await say(response, base | {"object": stream[0], "choices": [stream[2](token, reason)]})
            if (body.get("stream_options") or {}).get("include_usage"):
                await say(response, base | {"object": stream[0], "choices": [], "usage": usage(prompt, count, turn)})
            await response.write(b"data: [DONE]\n\n")
            return response

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = prompt_of(body["input"])
        async with self._enter(str(body.get("model", "")), prompt) as turn:
            base = {"id": f"resp_{self._stand_in.requests}", "object": "response", "model": body.get("model", "")}
            response = await event_stream(request) if body.get("stream") else None
            text, count = "", 0
            if response:
                await say(
                    response, {"type": "response.created", "response": base | {"status": "in_progress"}}, named=True
                )
            async for token, _ in self.tokens(turn, prompt, body):
                text, count = text + token, count + bool(token)
                if response and token:
                    await say(response, {"type": "response.output_text.delta", "delta": token}, named=True)
            content = [{"type": "output_text", "text": text, "annotations": []}]
            output = [{"type": "message", "role": "assistant", "status": "completed", "content": content}]
            done = base | {"status": "completed", "output": output, "usage": {"output_tokens": count}}
            if response is None:
                return web.json_response(done)
            await say(response, {"type": "response.completed", "response": done}, named=True)
            return response

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        async with self._enter(str(body.get("model", "")), ""):
            listed = [{"object": "embedding", "index": i, "embedding": embedding(str(t))} for i, t in enumerate(texts)]
        tokens = sum(len(str(text).split()) for text in texts)
        told = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": listed, "model": body.get("model", ""), "usage": told})

    async def _rerank(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        wanted = set(body["query"].lower().split())
        async with self._enter(str(body.get("model", "")), ""):
            scores = [len(wanted & set(text.lower().split())) / max(1, len(wanted)) for text in body["documents"]]
        results = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
        results.sort(key=lambda each: (-each["relevance_score"], each["index"]))
        return web.json_response(
            {"model": body.get("model", ""), "results": results[: body.get("top_n") or len(results)]}
        )

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        async with self._enter(str(body.get("model", "")), ""):
            response = web.StreamResponse(headers={"Content-Type": "audio/wav"})
            await response.prepare(request)
            await response.write(b"RIFF" + b"".join(word.encode() + b"\0" for word in body["input"].split()))
        return response

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        sound = form["file"]
        content = sound.file.read() if isinstance(sound, web.FileField) else str(sound).encode()
        async with self._enter(str(form.get("model", "")), ""):
            return web.json_response({"text": f"{len(content)} bytes of sound"})

    async def _draw(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        async with self._enter(str(body.get("model", "")), ""):
            return web.json_response(
                {"created": int(time.time()), "data": [{"b64_json": PNG, "revised_prompt": body["prompt"]}]}
            )


def usage(prompt: str, count: int, turn: Turn) -> dict[str, Any]:
    asked = len(prompt.split())
    details = {"cached_tokens": turn.cached}
    return {
        "prompt_tokens": asked,
        "completion_tokens": count,
        "total_tokens": asked + count,
        "prompt_tokens_details": details,
    }


async def event_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


async def say(response: web.StreamResponse, event: dict[str, Any], *, named: bool = False) -> None:
    name = f"event: {event['type']}\n" if named else ""
    await response.write(f"{name}data: {json.dumps(event)}\n\n".encode())
