"""A request passed on to the engine that was lent: on this host over loopback, on another through that host's supervisor.

Model servers listen on loopback alone, so what is for another host goes encrypted to its supervisor, which asks the engine there
(`ask_model`) and streams the answer back. Bodies are passed on as they come, and as fast as the client takes them: it is told
how much of the answer was taken, and sends no more than a window ahead of that (`pace_model`, pacing.py).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final

import aiohttp

from common.api.models import ASK_MODEL, PACE_MODEL, AskModel, ModelBytes, ModelReady, PaceModel
from common.client.aio import AsyncClient
from common.errors import DeadlineExceeded, Interrupted, TandemError, Unavailable
from main_pc.front.pacing import Progress

CONNECT_S: Final = 5.0
SILENCE_S: Final = 600.0
"""How long an engine may say nothing at all, be it before its first byte or in between."""
LONGEST_S: Final = 3_600.0
PACE_S: Final = 3.0
"""How long it is waited for a word that news of what was taken was heard."""

_NOT_PASSED_BACK: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "server", "date", "trailer"}
)
_PASSED_ON: Final = ("content-type", "accept", "x-request-id", "openai-organization", "openai-project")


class NotTaken(Unavailable):
    """The engine took no connection, so nothing of the request reached it."""


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What an engine answers; `chunks` can be read once."""

    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]

    async def whole(self, limit: int) -> bytes:
        """The whole body; Interrupted beyond `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        async for chunk in self.chunks:
            size += len(chunk)
            if size > limit:
                raise Interrupted(f"the engine's answer has more than {limit} bytes")
            pieces.append(chunk)
        return b"".join(pieces)


def headers_on(headers: Mapping[str, str]) -> dict[str, str]:
    """Of a client's headers, those that an engine gets; never its key."""
    return {name: headers[name] for name in _PASSED_ON if name in headers} | {"accept-encoding": "identity"}


def headers_back(headers: Mapping[str, str]) -> dict[str, str]:
    """Of an engine's headers, those that the client gets."""
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_PASSED_BACK}


class Passing:
    """Passes on from `host`, on the running loop."""

    def __init__(self, client: AsyncClient, host: str) -> None:
        self._client = client
        self._host = host
        self._readers = count(1)
        self._log = logging.getLogger("tandem.front")
        timeout = aiohttp.ClientTimeout(total=LONGEST_S, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)

    async def close(self) -> None:
        """Ends what is open."""
        await self._session.close()

    @asynccontextmanager
    async def ask(
        self, ready: ModelReady, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[EngineAnswer]:
        """The engine's answer to a POST, to be read inside the block.

        NotTaken where the engine did not take the request, Interrupted where it went away later.
        """
        here = self._here if ready.host == self._host else self._there
        async with here(ready, path, headers, body) as answer:
            yield answer

    @asynccontextmanager
    async def _here(
        self, ready: ModelReady, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[EngineAnswer]:
        what = f"{ready.engine} on {ready.host}"
        try:
            async with self._session.post(
                ready.url + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                yield EngineAnswer(answer.status, headers_back(answer.headers), answer.content.iter_any())
        except aiohttp.ClientConnectorError as error:
            raise NotTaken(f"{what} takes no connection: {error.strerror or error}") from None
        except aiohttp.ClientError as error:
            raise Interrupted(f"{what} went away midway: {error}") from None
        except TimeoutError:
            raise DeadlineExceeded(f"{what} said nothing for {SILENCE_S:.0f} s") from None

    @asynccontextmanager
    async def _there(
        self, ready: ModelReady, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[EngineAnswer]:
        lease = ready.lease
        asked = AskModel(
            lease_id=lease.lease_id,
            fencing_token=lease.fencing_token,
            method="POST",
            path=path,
            headers=dict(headers),
            body=body,
            reader=f"answer {next(self._readers)}",
        )
        target = f"Supervisor/{ready.host}"
        progress = Progress(lambda taken: self._pace(target, asked, taken))
        stream = self._client.stream(target, ASK_MODEL, asked, timeout_s=LONGEST_S)
        async with aclosing(stream) as items, progress.telling():
            first = await self._first(items)

            async def chunks() -> AsyncIterator[bytes]:
                if first.data:
                    yield first.data
                    progress.took(len(first.data))
                async for item in items:
                    if item.data:
                        yield item.data
                        progress.took(len(item.data))

            yield EngineAnswer(first.http_status, headers_back(first.headers), chunks())

    async def _pace(self, target: str, asked: AskModel, taken: int) -> bool:
        """Tells how much of an answer was taken; False where that was not heard, and has to be told again."""
        told = PaceModel(
            lease_id=asked.lease_id, fencing_token=asked.fencing_token, reader=asked.reader, taken_bytes=taken
        )
        try:
            await self._client.call(target, PACE_MODEL, told, timeout_s=PACE_S)
        except TandemError as error:
            self._log.debug("%s was not told how much of an answer was taken: %s", target, error.message)
            return False
        return True

    async def _first(self, items: AsyncIterator[ModelBytes]) -> ModelBytes:
        try:
            return await anext(items)
        except Unavailable as error:
            raise NotTaken(error.message, retry_after_ms=error.retry_after_ms) from None
