"""One request from its client to its model's engine and back, translated where the two speak differently."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from common.api.models import ModelReady, UseModel
from common.api.words import DEFAULT_PRIORITY
from common.clock import Clock, timestamp
from common.config.units import parse_seconds
from common.errors import BadRequest, TandemError, Unavailable
from main_pc.front import bodies, ollama
from main_pc.front.answering import Answering
from main_pc.front.event_stream import EventStream
from main_pc.front.lending import Lending
from main_pc.front.passing import EngineAnswer, NotTaken, Passing, headers_on
from main_pc.front.paths import Dialect, Route

MAX_TRANSLATED: Final = 64 * 2**20
ATTEMPTS: Final = 3
"""How often a model is borrowed where its engine takes no connection: it died, and was not known to have."""
AGAIN_S: Final = 0.3
OLLAMA: Final = "ollama"
HIGHEST_PRIORITY: Final = 100
HTTP_OK: Final = 200
HTTP_SERVER_ERROR: Final = 500
EXCERPT: Final = 500


class Relaying:
    """Answers the requests of ROUTES; a model is waited for `wait_s` unless the client says how long."""

    def __init__(self, lending: Lending, passing: Passing, clock: Clock, wait_s: float) -> None:
        self._lending = lending
        self._passing = passing
        self._clock = clock
        self._wait_s = wait_s
        self.waiting = 0

    async def answer(
        self, request: web.BaseRequest, route: Route, body: bytes, shared: dict[str, str]
    ) -> web.StreamResponse:
        """The answer, begun or whole; an error is answered in the client's dialect."""
        asked = bodies.read(request.headers.get("Content-Type", ""), body)
        use = self._use(request, route, asked.model)
        stream = route.streams if asked.stream is None else asked.stream
        out = Answering(request, route, asked.model, self._clock, shared, stream=stream)
        attempt = _Attempt(self._passing, self._clock, request, route, asked, body, out, stream=stream)
        try:
            for _ in range(ATTEMPTS - 1):
                try:
                    return await self._try(use, attempt, out)
                except NotTaken:
                    await asyncio.sleep(AGAIN_S)
            return await self._try(use, attempt, out)
        except TandemError as error:
            return await out.refuse(error)

    async def _try(self, use: UseModel, attempt: _Attempt, out: Answering) -> web.StreamResponse:
        async with AsyncExitStack() as held:
            self.waiting += 1
            try:
                async with out.waiting():
                    ready = await held.enter_async_context(self._lending.use(use, out.told))
            finally:
                self.waiting -= 1
            return await attempt.of(ready)

    def _use(self, request: web.BaseRequest, route: Route, model: str) -> UseModel:
        told_wait, told_priority = request.headers.get("X-Tandem-Wait"), request.headers.get("X-Tandem-Priority", "")
        if told_priority and not (told_priority.isdecimal() and int(told_priority[:4]) <= HIGHEST_PRIORITY):
            raise BadRequest(f"X-Tandem-Priority is 0 to {HIGHEST_PRIORITY}, not {told_priority!r}")
        return UseModel(
            model=model,
            capability=route.capability,
            priority=int(told_priority or DEFAULT_PRIORITY),
            wait_s=self._wait_s if told_wait is None else float(parse_seconds(told_wait)),
        )


class _Attempt:
    """One request at one engine."""

    def __init__(
        self,
        passing: Passing,
        clock: Clock,
        request: web.BaseRequest,
        route: Route,
        asked: bodies.Asked,
        body: bytes,
        out: Answering,
        *,
        stream: bool,
    ) -> None:
        self._passing = passing
        self._clock = clock
        self._now = clock.monotonic
        self._request = request
        self._route = route
        self._asked = asked
        self._body = body
        self._out = out
        self._stream = stream

    async def of(self, ready: ModelReady) -> web.StreamResponse:
        """The engine's answer, passed on as it comes or in the other dialect's words."""
        if self._route.dialect is Dialect.OPENAI or ready.engine == OLLAMA:
            return await self._as_it_is(ready)
        return await self._translated(ready)

    async def _as_it_is(self, ready: ModelReady) -> web.StreamResponse:
        content_type = self._request.headers.get("Content-Type", "")
        body = bodies.renamed(content_type, self._body, self._asked, ready.upstream)
        async with self._passing.ask(ready, self._route.path, headers_on(self._request.headers), body) as answer:
            if answer.status != HTTP_OK and self._out.begun:
                raise await _refused(ready, answer)
            response = await self._out.begin(answer.status, answer.headers)
            async for chunk in answer.chunks:
                await response.write(chunk)
            await response.write_eof()
        return response

    async def _translated(self, ready: ModelReady) -> web.StreamResponse:
        path, document = self._route.path, self._asked.document or {}
        if ollama.is_empty(path, document):
            return await self._out.document(ollama.empty_answer(path, document, timestamp(self._clock.wall())))
        body = ollama.request(path, document, ready.upstream, stream=self._stream)
        headers = {**headers_on(self._request.headers), "content-type": "application/json"}
        async with self._passing.ask(ready, ollama.PATHS[path], headers, body) as answer:
            if answer.status != HTTP_OK:
                raise await _refused(ready, answer)
            if self._route.capability == "embeddings":
                return await self._embedded(answer)
            return await (self._streamed(answer) if self._stream else self._whole(answer))

    async def _embedded(self, answer: EngineAnswer) -> web.StreamResponse:
        began = self._now()
        body = await answer.whole(MAX_TRANSLATED)
        return await self._out.document(
            ollama.embeddings(self._route.path, body, self._asked.model, self._now() - began)
        )

    async def _whole(self, answer: EngineAnswer) -> web.StreamResponse:
        words = self._words()
        body = await answer.whole(MAX_TRANSLATED)
        return await self._out.document(words.whole(body, timestamp(self._clock.wall()), self._now()))

    async def _streamed(self, answer: EngineAnswer) -> web.StreamResponse:
        words, events = self._words(), EventStream()
        response = await self._out.begin_stream()
        async for chunk in answer.chunks:
            for data in events.feed(chunk):
                await response.write(words.piece(data, timestamp(self._clock.wall()), self._now()))
        for data in events.end():
            await response.write(words.piece(data, timestamp(self._clock.wall()), self._now()))
        await response.write(words.end(timestamp(self._clock.wall()), self._now()))
        await response.write_eof()
        return response

    def _words(self) -> ollama.Answer:
        return ollama.Answer(self._asked.model, self._route.capability == "chat", self._now())


async def _refused(ready: ModelReady, answer: EngineAnswer) -> TandemError:
    text = (await answer.whole(MAX_TRANSLATED)).decode(errors="replace")
    told = f"{ready.engine} on {ready.host} answered {answer.status}: {' '.join(text.split())[:EXCERPT]}"
    return BadRequest(told) if answer.status < HTTP_SERVER_ERROR else Unavailable(told)
