from __future__ import annotations

import asyncio
import gzip
import socket
import subprocess
import sys

import msgspec
import pytest

from common.engines.exchange import Answer, Exchange, deadline
from common.errors import DeadlineExceeded, Interrupted, TooLarge, Unavailable
from tests.common.engines.conftest import Answering, http


class Thing(msgspec.Struct):
    name: str


async def ask(url: str, within_s: float = 20.0, **limits: int) -> Answer:
    exchange = Exchange(url, **limits)  # type: ignore[arg-type]
    try:
        return await exchange.ask("GET", "/thing", deadline(within_s))
    finally:
        await exchange.close()


async def test_an_answer_is_read_as_the_type_it_should_be(answering: Answering) -> None:
    answer = await ask(await answering(http(b'{"name": "a", "more": [1]}')))
    assert answer.fine
    assert answer.read(Thing) == Thing("a")


@pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"name": 3}', b"", b'{"name"', b"[" * 5000, b"\xff\xfe"])
async def test_what_is_not_as_documented_is_unavailable_and_quoted(answering: Answering, body: bytes) -> None:
    answer = await ask(await answering(http(body)))
    with pytest.raises(Unavailable, match="GET /thing answered 200"):
        answer.read(Thing)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no such model", "code": 404}}', "no such model"),
        (b'{"error": "model not found"}', "model not found"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"message": "so it is"}', "so it is"),
        (b"plain\nwords", "plain words"),
        (b"{}", "{}"),
    ],
)
async def test_the_words_of_an_error_are_found_in_every_servers_dialect(
    answering: Answering, body: bytes, words: str
) -> None:
    answer = await ask(await answering(http(body, "500 Internal Server Error")))
    assert answer.line() == f"GET /thing answered 500: {words}"
    with pytest.raises(Unavailable, match=words):
        answer.read(Thing)


async def test_where_nobody_listens_it_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="no connection") as caught:
            await ask(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert caught.value.details["absent"]


async def test_an_address_that_is_none_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await ask("http://127.0.0.1:99999")


@pytest.mark.parametrize(
    "content", [b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 huh\r\n\r\n"]
)
async def test_a_program_that_does_not_speak_http_is_unavailable(answering: Answering, content: bytes) -> None:
    with pytest.raises((Unavailable, Interrupted)):
        await ask(await answering(content))


async def test_endless_headers_are_unavailable(answering: Answering) -> None:
    with pytest.raises(Unavailable):
        await ask(await answering(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000))


@pytest.mark.parametrize("content", [b"", b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"name": "'])
async def test_a_connection_that_breaks_midway_is_interrupted(answering: Answering, content: bytes) -> None:
    with pytest.raises(Interrupted):
        await ask(await answering(content))


async def test_a_body_beyond_the_bound_is_too_large_and_not_read_to_its_end(answering: Answering) -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 3 * 2**20
    with pytest.raises(TooLarge):
        await ask(await answering(endless), max_answer_bytes=2**20)


async def test_silence_ends_at_the_deadline() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        with pytest.raises(DeadlineExceeded):
            await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", within_s=0.1)


async def test_a_redirect_is_an_answer_and_is_not_followed(answering: Answering) -> None:
    elsewhere = await answering(http(b'{"name": "elsewhere"}'))
    answer = await ask(await answering(http(b"", "302 Found", f"Location: {elsewhere}")))
    assert (answer.status, answer.fine) == (302, False)


async def test_a_compressed_body_is_not_unpacked(answering: Answering) -> None:
    packed = gzip.compress(b'{"name": "a"}')
    answer = await ask(await answering(http(packed, "200 OK", "Content-Encoding: gzip")))
    assert answer.body == packed


async def test_a_key_is_sent_as_a_bearer_and_no_proxy_of_the_environment_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http(b"{}"))
        await writer.drain()
        writer.close()

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        exchange = Exchange(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/", "sesame")
        assert (await exchange.ask("POST", "/x", deadline(20), body={"a": 1}, query={"level": "2"})).fine
        await exchange.close()
        await exchange.close()
    assert heads[0].startswith(b"POST /x?level=2 HTTP/1.1")
    assert b"Authorization: Bearer sesame\r\n" in heads[0]
    assert b"Content-Type: application/json\r\n" in heads[0]


def test_who_imports_the_adapters_has_not_imported_aiohttp() -> None:
    script = "import sys, common.engines.opening; print('aiohttp' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "False"
