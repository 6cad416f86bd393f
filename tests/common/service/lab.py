"""A service made for tests, and bare ZeroMQ peers that know nothing of Tandem's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from common.api.words import Access, Blob, Empty, Message, Topic, Verb
from common.errors import Conflict, TandemError
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import Change
from common.wire import header
from common.wire.header import PROTOCOL, CallHeader, CallKind, Codec, ReplyHeader, ReplyKind

PATIENCE_S = 60.0


class Text(Message, frozen=True):
    text: str = ""
    number: int = 0
    data: Blob = memoryview(b"")


class Said(Message, frozen=True):
    text: str
    size: int = 0


class Row(Message, frozen=True):
    key: str
    value: str = ""


class Noted(Message, frozen=True):
    key: str


ECHO = Verb("echo", Text, Said, Access.USE)
WAIT = Verb("wait", Empty, Said, Access.USE)
COUNT = Verb("count", Text, Said, Access.USE, part=Said)
WRITE = Verb("write", Row, Said, Access.USE, idempotent=False)
READ = Verb("read", Row, Said, Access.READ)
FAIL = Verb("fail", Text, Said, Access.USE)
NOTED = Topic("noted", Noted, "a row was written")
OTHER = Topic("other", Noted, "never published")


class Service:
    """A small service: it echoes, waits until told, writes rows, and fails as asked."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.rows: dict[str, str] = {}
        self.rebuilt = 0
        self.go = asyncio.Event()
        self.waiting = asyncio.Event()
        self.ended: list[str] = []
        shell.journal.rebuild = self.rebuild
        shell.handle(ECHO, lambda request, call: Said(text=request.text, size=len(request.data)))
        shell.handle(WAIT, self.wait)
        shell.handle(COUNT, self.count)
        shell.handle(WRITE, self.write)
        shell.handle(READ, self.read)
        shell.handle(FAIL, self.fail)

    async def wait(self, request: Empty, call: Call) -> Said:
        self.waiting.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return Said(text="went")

    async def count(self, request: Text, call: Call) -> Said:
        self.waiting.set()
        try:
            for number in range(request.number):
                call.part(Said(text=str(number)))
                await asyncio.sleep(0)
            if request.text == "and wait":
                await self.go.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return Said(text="done", size=request.number)

    def write(self, request: Row, call: Call) -> Said:
        self.shell.journal.write([Change("rows", request.key, request.value.encode())])
        self.rows[request.key] = request.value
        self.shell.publisher.publish(NOTED, request.key, Noted(key=request.key))
        return Said(text=request.value)

    def read(self, request: Row, call: Call) -> Said:
        return Said(text=self.rows.get(request.key, ""))

    def fail(self, request: Text, call: Call) -> Said:
        if request.text == "conflict":
            raise Conflict("as asked", where="here")
        if request.text == "unsayable error":
            raise Conflict("as asked", where=object())
        if request.text == "unsayable reply":
            return msgspec.convert({"text": ""}, Said) if request.number else _Unsayable()  # type: ignore[return-value]
        if request.text == "strided reply":
            return _Unsayable(text=memoryview(bytes(9))[::2])  # type: ignore[return-value]
        raise RuntimeError("a bug, as asked")

    def rebuild(self) -> None:
        self.rows = {key: value.decode() for key, value in self.shell.store.load("rows")}
        self.rebuilt += 1


class _Unsayable(Message, frozen=True):
    text: Any = object()


@asynccontextmanager
async def service(**settings: Any) -> AsyncIterator[Service]:
    """A service that stands; `store` and `topics` as of Shell, the rest as of ShellSettings."""
    store = settings.pop("store", None) or MemoryStore()
    made = ShellSettings(
        **{"service": "Lab", "host": "mainpc", "port": 0, "events_port": 0, "health_port": 0} | settings
    )
    shell = Shell(made, (NOTED, OTHER), store)
    serving = Service(shell)
    await shell.open()
    try:
        yield serving
    finally:
        await shell.close(drain_s=0)


class Peer:
    """A bare socket of `kind`, connected to a port of this host."""

    def __init__(self, port: int, kind: int = zmq.DEALER) -> None:
        self.context = zmq.asyncio.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    async def send(self, *frames: bytes) -> None:
        await self.socket.send_multipart(frames)

    async def receive(self) -> list[bytes]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.socket.recv_multipart()

    async def ask(self, *frames: bytes) -> list[bytes]:
        await self.send(*frames)
        return await self.receive()

    async def plain(self, action: str, **fields: Any) -> dict[str, Any]:
        """A plain call and its reply."""
        (body,) = await self.ask(json.dumps({"action": action, **fields}).encode())
        return dict(json.loads(body))

    def close(self) -> None:
        self.socket.close()
        self.context.term()


@asynccontextmanager
async def peer(port: int, kind: int = zmq.DEALER) -> AsyncIterator[Peer]:
    """A peer, closed at the end."""
    made = Peer(port, kind)
    try:
        yield made
    finally:
        made.close()


def native(
    verb: str,
    request: Any = None,
    call_id: int = 1,
    budget_ms: int = 0,
    codec: Codec = Codec.MSGPACK,
    token: str | None = None,
) -> tuple[bytes, bytes]:
    """A native call's frames."""
    encode = msgspec.msgpack.encode if codec is Codec.MSGPACK else msgspec.json.encode
    head = CallHeader(PROTOCOL, CallKind.CALL, call_id, verb, budget_ms, codec, token)
    return header.encode(head), encode({} if request is None else request)


def withdrawal(call_id: int = 1) -> tuple[bytes, bytes]:
    """The frames that withdraw a call."""
    return header.encode(CallHeader(PROTOCOL, CallKind.WITHDRAW, call_id)), b""


def heard(frames: list[bytes]) -> tuple[ReplyHeader, Any]:
    """A native reply's header and its body."""
    head = header.decode_reply(frames[0])
    decode: Callable[[bytes], Any] = msgspec.msgpack.decode if head.codec is Codec.MSGPACK else msgspec.json.decode
    return head, decode(frames[1])


def is_error(frames: list[bytes], code: str) -> bool:
    """Whether a native reply is the error of that code."""
    head, body = heard(frames)
    return head.kind is ReplyKind.ERROR and body["code"] == code


async def until(fact: Callable[[], bool]) -> None:
    """Wait until `fact` holds, at most PATIENCE_S."""
    async with asyncio.timeout(PATIENCE_S):
        while not fact():
            await asyncio.sleep(0.005)


def raises(error: type[TandemError], body: dict[str, Any]) -> bool:
    """Whether a plain reply is that error."""
    return body["status"] == "error" and body["code"] == error.code.value and body["error"] == body["message"]
