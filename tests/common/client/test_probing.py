from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.client.probing import answer_in, judge, knock, over_http, question, reasons_of
from common.errors import BadRequest, Overloaded


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


BODY = b'{"status": "degraded", "ready": true}'


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 37\r\n\r\n" + BODY, ("", {"status": "degraded", "ready": True})),
        (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, ("", {})),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", ("", {})),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", ("", {})),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n{}", ("", {})),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", ("HTTP 503 Service Unavailable", {})),
        (b"HTTP/1.1 200 " + b"x" * 100_000, ("the answer is not HTTP", {})),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n{}", ("", {})),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n{}", ("", {})),
        (b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10_000, ("", {})),
        (b"+PONG\r\n", ("the answer is not HTTP", {})),
        (b"", ("the answer is not HTTP", {})),
    ],
)
async def test_http_tells_readiness_by_its_status_and_the_rest_by_its_body(answer: bytes, told: Any) -> None:
    async with answering(answer) as port:
        assert await over_http("127.0.0.1", port) == told


async def test_a_knock_is_content_with_a_connection() -> None:
    async with answering(b"") as port:
        await knock("127.0.0.1", port)
    with pytest.raises(ConnectionRefusedError):
        await knock("127.0.0.1", port)


def test_the_reasons_of_an_answer_are_one_line() -> None:
    assert reasons_of({"reasons": ["the disk is full", "the card is hot"]}) == "the disk is full; the card is hot"
    assert reasons_of({"reasons": "none"}) == ""
    assert judge({"ready": False, "status": "ok", "reasons": ["starting"]}) == "starting"


def test_a_health_answer_is_read_as_far_as_it_says_how_its_process_is() -> None:
    assert answer_in(b'{"ready": true, "status": "ok", "uptime": 1e9, "more": {"a": [1]}}') == {
        "ready": True,
        "status": "ok",
    }
    assert answer_in(b'{"reasons": ["hot"], "ready": null}') == {"reasons": ["hot"], "ready": None}
    assert answer_in(b"{}") == {}


def test_a_health_answer_that_is_an_error_or_nonsense_is_raised_as_what_it_is() -> None:
    with pytest.raises(Overloaded, match="full"):
        answer_in(b'{"status": "error", "code": "overloaded", "error": "full"}')
    for nonsense in (b"", b"[]", b'{"status": ', b"\xff", b'{"ready": ' + b"[" * 100_000):
        with pytest.raises(BadRequest, match="not a JSON object"):
            answer_in(nonsense)


def test_the_question_is_what_any_agent_reads() -> None:
    assert json.loads(question(0.3)) == {"action": "health_check", "_deadline_ms": 300}
    assert json.loads(question(0.0))["_deadline_ms"] == 1
