"""Requests of other hosts to an engine on this host's loopback: passed on under a live share of its lease, streamed back.

Bodies are passed on as they come, a piece at a time, and nothing is gathered here: where the reader stops, the engine is read no
further (pacing.py). Whoever asks leaves, and so does its request: the connection to the engine is closed with the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from common.api.leases import Lease
from common.api.models import AskModel, ModelBytes, PaceModel
from common.errors import BadRequest, DeadlineExceeded, Interrupted, NotFound, StaleFence, Unavailable
from common.service.call import Call
from common.supervisor.models.managed import Serving
from common.supervisor.models.pacing import LOOK_S, STANDSTILL_S, WHOLE_BYTES, Pace, Paces, stood_still, too_long

if TYPE_CHECKING:
    import aiohttp

CONNECT_S: Final = 5.0
SILENCE_S: Final = 600.0
"""How long an engine may say nothing."""
LONGEST_S: Final = 3_600.0
PIECE_BYTES: Final = 64 * 1024
_NOT_SENT: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "authorization", "upgrade", "te"}
)
_NOT_BACK: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "trailer"})


class Asking:
    """`find` finds a live lease by its id (NotFound), `serving` the engine whose lease has that id, if it answers."""

    def __init__(self, find: Callable[[str], Lease], serving: Callable[[str], Serving | None]) -> None:
        self._find = find
        self._serving = serving
        self._session: aiohttp.ClientSession | None = None
        self._paces = Paces()

    async def ask(self, asked: AskModel, call: Call) -> ModelBytes:
        """Streams the engine's answer; what is returned ends it.

        Raises NotFound and StaleFence about the share, Conflict about the reader's name before the engine is asked, Unavailable
        where that takes no connection, Interrupted where it went away midway, DeadlineExceeded after its silence.
        """
        url = self._allowed(asked) + asked.path
        import aiohttp

        try:
            with self._paces.of(asked) as pace:
                async with self._opened().request(
                    asked.method,
                    url,
                    data=asked.body or None,
                    headers={name: value for name, value in asked.headers.items() if name.lower() not in _NOT_SENT},
                    allow_redirects=False,
                ) as answer:
                    return await self._pass_on(answer, asked, pace, call)
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(f"the engine takes no connection: {error.strerror or error}") from error
        except aiohttp.ClientError as error:
            raise Interrupted(f"the engine went away midway: {error}") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"the engine said nothing for {SILENCE_S:.0f} s") from error

    def pace(self, told: PaceModel) -> None:
        """Takes in how far a reader has come."""
        self._paces.taken(told)

    async def close(self) -> None:
        """Ends what is open."""
        if self._session is not None:
            await self._session.close()

    def _allowed(self, asked: AskModel) -> str:
        """The engine's address, where whoever asks was given a share of it."""
        share = self._find(asked.lease_id)
        if not share.shares:
            raise NotFound(
                f"lease {asked.lease_id} is no share of a model; use_model gives one", lease_id=asked.lease_id
            )
        if share.fencing_token != asked.fencing_token:
            raise StaleFence(f"lease {asked.lease_id} is held under another fencing token", lease_id=asked.lease_id)
        serving = self._serving(share.shares)
        if serving is None:
            raise StaleFence(f"the model of lease {asked.lease_id} is not loaded any more", lease_id=asked.lease_id)
        if not asked.path.startswith("/") or any(ord(each) <= 32 for each in asked.path):
            raise BadRequest(f"{asked.path[:100]!r} is no path of an HTTP request")
        return serving.url

    async def _pass_on(self, answer: aiohttp.ClientResponse, asked: AskModel, pace: Pace, call: Call) -> ModelBytes:
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_BACK}
        if not call.streams:
            return ModelBytes(http_status=answer.status, headers=headers, data=await _whole(answer))
        call.part(ModelBytes(http_status=answer.status, headers=headers))
        while piece := await answer.content.readany():
            for start in range(0, len(piece), PIECE_BYTES):
                await self._room(asked, pace)
                part = piece[start : start + PIECE_BYTES]
                call.part(ModelBytes(data=part))
                pace.sent(len(part))
            await asyncio.sleep(0)  # whoever answers fast leaves the loop to others
        return ModelBytes()

    async def _room(self, asked: AskModel, pace: Pace) -> None:
        """Waits until its reader has taken enough; it may wait for as long as its share lives, and STANDSTILL_S at most."""
        still_s = 0.0
        while not pace.has_room:
            if not asked.reader:
                raise too_long()
            still_s = 0.0 if await pace.moved(LOOK_S) else still_s + LOOK_S
            self._allowed(asked)
            if still_s >= STANDSTILL_S:
                raise stood_still()

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=LONGEST_S, sock_connect=CONNECT_S, sock_read=SILENCE_S),
                auto_decompress=False,
                read_bufsize=PIECE_BYTES,
            )
        return self._session


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while piece := await answer.content.readany():
        body += piece
        if len(body) > WHOLE_BYTES:
            raise too_long()
    return bytes(body)
