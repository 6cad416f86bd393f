"""One answer on its way to a client: begun as late as can be, so that a refusal keeps its status; a stream tells of its wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
from aiohttp import web

from common.api.models import ModelProgress
from common.clock import Clock, timestamp
from common.errors import TandemError
from main_pc.front import refusals
from main_pc.front.paths import Dialect, Route

FIRST_TOLD_S: Final = 0.8
"""A client that streams hears after so long that it waits, and for what; a faster model spares it that."""
TOLD_S: Final = 2.0
STREAMS: Final = {Dialect.OPENAI: "text/event-stream", Dialect.OLLAMA: "application/x-ndjson"}


class Answering:
    """The answer to one request for `model`; `headers` go with whatever is answered."""

    def __init__(
        self,
        request: web.BaseRequest,
        route: Route,
        model: str,
        clock: Clock,
        headers: Mapping[str, str],
        *,
        stream: bool,
    ) -> None:
        self._request = request
        self._route = route
        self._model = model
        self._clock = clock
        self._headers = dict(headers)
        self._stream = stream
        self._progress: ModelProgress | None = None
        self._begun: web.StreamResponse | None = None

    @property
    def begun(self) -> bool:
        """Whether the client has a status already."""
        return self._begun is not None

    def told(self, progress: ModelProgress) -> None:
        """How the wait for the model goes."""
        self._progress = progress

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Inside the block the client is told now and then that it waits, if it can be."""
        telling = asyncio.create_task(self._tell()) if self._stream else None
        try:
            yield
        finally:
            if telling is not None:
                telling.cancel()
                with suppress(asyncio.CancelledError, ConnectionError):
                    await telling

    async def begin(self, status: int, headers: Mapping[str, str]) -> web.StreamResponse:
        """The response to write to; where it was begun while waiting, its status stays what it was."""
        if self._begun is None:
            self._begun = web.StreamResponse(status=status, headers={**headers, **self._headers})
            await self._begun.prepare(self._request)
        return self._begun

    async def begin_stream(self) -> web.StreamResponse:
        """The same for a stream of the dialect's own."""
        return await self.begin(200, {"Content-Type": STREAMS[self._route.dialect], "Cache-Control": "no-cache"})

    async def document(self, document: Mapping[str, Any]) -> web.StreamResponse:
        """A whole answer as JSON; as the only line of a stream that has begun."""
        text = msgspec.json.encode(document)
        if self._begun is None:
            return web.Response(body=text, content_type="application/json", headers=self._headers)
        await self._begun.write(text + b"\n")
        return self._begun

    async def refuse(self, error: TandemError) -> web.StreamResponse:
        """The error, in a stream that has begun as its last line."""
        if self._begun is None:
            return refusal(error, self._route.dialect, self._headers)
        with suppress(ConnectionError):
            await self._begun.write(refusals.in_stream(error, self._route.dialect))
        return self._begun

    async def _tell(self) -> None:
        await asyncio.sleep(FIRST_TOLD_S)
        while True:
            response = await self.begin_stream()
            chat = self._route.capability == "chat"
            at = timestamp(self._clock.wall())
            await response.write(refusals.waiting(self._progress, self._model, chat, self._route.dialect, at))
            await asyncio.sleep(TOLD_S)


def refusal(error: TandemError, dialect: Dialect, headers: Mapping[str, str]) -> web.Response:
    """An error as a whole answer."""
    return web.Response(
        status=refusals.status_of(error),
        body=msgspec.json.encode(refusals.document_of(error, dialect)),
        content_type="application/json",
        headers={**refusals.headers_of(error), **headers},
    )
