"""Asking any process once how it is: over ZeroMQ in plain dress, over HTTP, or by a bare connection. What an answer means is
here, what follows from it is not.

ZeroMQ asks for `health_check` as any agent in any language answers it. An answer with a `ready` goes by that, another one by its
`status`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from common.api.basic import HEALTH_CHECK
from common.client.plain_link import PlainLink, plain_call, plain_reply
from common.client.verbs import verb_named
from common.wire.frames import Buffer

_ASKED: Final = verb_named(HEALTH_CHECK.name, "")
"""By its name alone: an agent that knows nothing of Tandem may answer in a shape of its own."""
WELL: Final = ("ok", "success", "healthy", "degraded")
"""The `status` of one that takes work, where it says nothing of `ready`."""
MAX_BODY_BYTES: Final = 65_536
MOST_HEADERS: Final = 100
MOST_DIGITS: Final = 12
REASON_CHARS: Final = 200

_objects = msgspec.json.Decoder(dict[str, Any])


class _Told(msgspec.Struct):
    """What of a health answer says how its process is; the rest of it is passed over."""

    ready: Any = msgspec.UNSET
    status: Any = msgspec.UNSET
    reasons: Any = msgspec.UNSET


_told = msgspec.json.Decoder(_Told)


def question(budget_s: float) -> bytes:
    """What a health port is asked over ZeroMQ, behind a delimiter."""
    return plain_call(_ASKED.name, {}, max(1, int(budget_s * 1000)))


def answer_in(body: Buffer) -> dict[str, Any]:
    """What a health answer says; raises the error that it carries, BadRequest where it is no JSON object."""
    try:
        told = _told.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        told = None
    if told is None or told.status == "error":
        said: dict[str, Any] = plain_reply(body, _ASKED)
        return said
    named = (("ready", told.ready), ("status", told.status), ("reasons", told.reasons))
    return {name: value for name, value in named if value is not msgspec.UNSET}


async def over_zmq(link: PlainLink, deadline: float) -> dict[str, Any]:
    """The health answer of the process behind `link` by `deadline` (monotonic); raises the TandemError that ended it."""
    answer: dict[str, Any] = await link.call(_ASKED, {}, deadline)
    return answer


async def over_http(host: str, port: int) -> tuple[str, dict[str, Any]]:
    """What `/health` says: why it is not ready (empty: it is), and its body where that is a JSON object.

    OSError where nobody is there.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        words = (await _line(reader)).decode(errors="replace").split(maxsplit=2)
        body = await _body(reader) if len(words) > 1 else {}
    finally:
        writer.close()
    if len(words) < 2 or not words[0].startswith("HTTP/"):
        return "the answer is not HTTP", {}
    return "" if words[1] == "200" else f"HTTP {' '.join(words[1:]).strip()}", body


async def _body(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The JSON object behind the head, where there is one and its length is told."""
    length = 0
    for _ in range(MOST_HEADERS):
        name, _, value = (await _line(reader)).partition(b":")
        if not name.strip():
            break
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            length = int(value.strip()[:MOST_DIGITS])
    with suppress(msgspec.MsgspecError, UnicodeError, RecursionError, asyncio.IncompleteReadError):
        return _objects.decode(await reader.readexactly(length)) if 0 < length <= MAX_BODY_BYTES else {}
    return {}


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; empty where it is longer than any that means something."""
    try:
        return await reader.readline()
    except ValueError:
        return b""


async def knock(host: str, port: int) -> None:
    """Connect and hang up; OSError where nobody is there."""
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


def judge(answer: Mapping[str, Any]) -> str:
    """Why a health answer does not mean ready; empty when it does."""
    ready, status = answer.get("ready"), answer.get("status")
    if ready is True or (ready is None and str(status).lower() in WELL):
        return ""
    return reasons_of(answer) or f"it says {status or 'nothing'}, not ready"


def reasons_of(answer: Mapping[str, Any]) -> str:
    """The reasons that a health answer gives, in one line."""
    reasons = answer.get("reasons")
    told = "; ".join(str(reason) for reason in reasons) if isinstance(reasons, list) else ""
    return told[:REASON_CHARS]
