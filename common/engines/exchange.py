"""One HTTP exchange with a model server, bounded in time and in bytes; what went wrong is a typed error.

It decides nothing about what an answer means. Each exchange has a connection of its own: an idle one that the server
closed meanwhile would make a sleep or a load fail that was never tried. No proxy, no redirect, no cookie, no compression.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from common.errors import DeadlineExceeded, Interrupted, TooLarge, Unavailable

if TYPE_CHECKING:
    import aiohttp

Shape = TypeVar("Shape")

MAX_ANSWER_BYTES: Final = 4 * 2**20
"""A list of models with their chat templates is well below; nothing else that is asked comes near."""
EXCERPT_CHARS: Final = 200


class Answer(msgspec.Struct, frozen=True):
    """Status and body of an answer, and which request it is the answer to."""

    asked: str
    status: int
    body: bytes

    @property
    def fine(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    def told(self) -> str:
        """The server's words in one line: the message of its error where there is one, else how its body begins."""
        words = _message(self.body) or self.body.decode(errors="replace")
        return " ".join(words.split())[:EXCERPT_CHARS]

    def line(self) -> str:
        """Request, status and the server's words, for a report."""
        return f"{self.asked} answered {self.status}" + (f": {told}" if (told := self.told()) else "")

    def read(self, shape: type[Shape]) -> Shape:
        """The body of a success as that type; Unavailable where it is something else."""
        if not self.fine:
            raise Unavailable(self.line(), status=self.status)
        try:
            return msgspec.json.decode(self.body, type=shape)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Unavailable(f"{self.line()}, which is not what it documents: {error}", status=self.status) from error


class Exchange:
    """HTTP with the server at `url`; the connections belong to the loop that asks first, until `close`."""

    def __init__(self, url: str, api_key: str = "", max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self.url: Final = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        path: str,
        until: float,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """The answer, whatever its status, by `until` on the loop's clock.

        Raises Unavailable, Interrupted, DeadlineExceeded or TooLarge.
        """
        asked = f"{method} {path}"
        with _typed(f"{asked} at {self.url}"):
            async with asyncio.timeout_at(until):
                content = None if body is None else msgspec.json.encode(body)
                headers = {} if body is None else {"Content-Type": "application/json"}
                async with self._opened().request(
                    method, self.url + path, params=query, data=content, headers=headers, allow_redirects=False
                ) as response:
                    return Answer(asked, response.status, await self._bounded(asked, response))

    async def close(self) -> None:
        """Lets go of everything; may be called again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def _bounded(self, asked: str, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > self._max_answer_bytes:
                response.close()
                limit = self._max_answer_bytes
                raise TooLarge(f"{asked} at {self.url}: the answer is longer than {limit} bytes", limit=limit)
        return bytes(body)


def deadline(within_s: float) -> float:
    """So many seconds from now on the running loop's clock."""
    return asyncio.get_running_loop().time() + within_s


@contextmanager
def _typed(asked: str) -> Iterator[None]:
    """Maps what aiohttp and the system raise to the errors of this product."""
    import aiohttp

    try:
        yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"{asked}: no answer in time") from error
    except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
        raise Unavailable(
            f"{asked}: no connection: {getattr(error, 'strerror', None) or error}", absent=True
        ) from error
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError) as error:
        raise Interrupted(f"{asked}: the connection broke before the answer was complete") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unavailable(f"{asked}: the answer is not HTTP: {error}"[: 2 * EXCERPT_CHARS]) from error


def _message(body: bytes) -> str:
    """The message of an error as OpenAI, Ollama, FastAPI and llama-server write it; empty where there is none."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    for key in ("error", "message", "detail"):
        if isinstance(found, dict):
            found = found.get(key, found)
    return found if isinstance(found, str) else ""
