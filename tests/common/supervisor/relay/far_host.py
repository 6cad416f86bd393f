"""A far host on 127.0.0.2: a service behind CURVE ports and a gate that knows the relay's key; and bare clients on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from common.api.words import Access, Message, Seconds, Topic, Verb
from common.security.keyfiles import KEYRING_FILE, ProcessKeys, make_folder, write
from common.security.keyring import HostKeys, KeyEntry, Keyring
from common.service.call import Call
from common.service.shell import Shell, ShellSettings
from common.transport.sockets import Keys

FAR = "127.0.0.2"
PATIENCE_MS = 60_000


class Say(Message, frozen=True):
    text: str = ""
    parts: int = 0
    wait_s: Seconds = 0.0


class Said(Message, frozen=True):
    text: str


SAY = Verb("say", Say, Said, Access.USE, part=Said)
NEWS = Topic("news", Said)


def new_keys() -> Keys:
    public, secret = zmq.curve_keypair()
    return Keys(public, secret)


class FarService:
    """One service of `pc2`; `numbers` are its request and events port, the same over restarts."""

    def __init__(self, folder: Path, keys: Keys, known: Iterable[Keys], numbers: tuple[int, int] = (0, 0)) -> None:
        self.shell = Shell(
            ShellSettings(
                "FarService",
                "pc2",
                numbers[0],
                numbers[1],
                addresses=("127.0.0.1", FAR),
                keys=key_files(folder, keys, known),
            ),
            [NEWS],
        )
        self.shell.handle(SAY, self._say)
        self.cancelled = asyncio.Event()

    @property
    def numbers(self) -> tuple[int, int]:
        return self.shell.port, self.shell.events_port

    async def _say(self, asked: Say, call: Call) -> Said:
        try:
            for number in range(asked.parts):
                call.part(Said(text=f"{asked.text} {number}"))
                await asyncio.sleep(asked.wait_s)
            await asyncio.sleep(asked.wait_s)
        except BaseException:
            self.cancelled.set()
            raise
        return Said(text=asked.text)

    def publish(self, text: str) -> None:
        self.shell.publisher.publish(NEWS, text, Said(text=text))

    async def open(self) -> None:
        await self.shell.open()

    def vanish(self) -> None:
        """As if its host had been switched off: its encrypted ports are gone without a word."""
        for port in self.shell._ports:
            if port.encrypted:
                port.close(0)
        assert self.shell._events is not None
        self.shell._events.close_encrypted()

    async def close(self) -> None:
        await self.shell.close(drain_s=0)


def key_files(folder: Path, keys: Keys, known: Iterable[Keys]) -> Path:
    """The files of a process of `pc2` whose keyring knows `known` as relays of `mainpc`; its own pair's file."""
    make_folder(folder)
    own = folder / "far_service.json"
    write(own, ProcessKeys(keys.public.decode(), keys.secret.decode()))
    pc2 = [KeyEntry("far_service", "service", keys.public.decode())]
    mainpc = [KeyEntry(f"relay{number}", "relay", one.public.decode()) for number, one in enumerate(known)]
    lists = {
        host: HostKeys(host=host, serial=1, issued_at=1.0, keys=entries)
        for host, entries in (("pc2", pc2), ("mainpc", mainpc))
    }
    write(folder / KEYRING_FILE, Keyring(own_host="pc2", hosts=lists))
    return own


@asynccontextmanager
async def far_service(
    folder: Path, keys: Keys, known: Iterable[Keys], numbers: tuple[int, int] = (0, 0)
) -> AsyncIterator[FarService]:
    service = FarService(folder, keys, known, numbers)
    await service.open()
    try:
        yield service
    finally:
        await service.close()


class Bare:
    """A REQ client that knows ZeroMQ and JSON and nothing else."""

    def __init__(self, port: int, *options: int) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.REQ)
        for option in options:
            self._socket.setsockopt(option, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        return await self.ask_raw(json.dumps({"action": action, **fields}).encode())

    async def ask_raw(self, body: bytes) -> dict[str, Any]:
        await self._socket.send(body)
        answer: dict[str, Any] = json.loads(await self._socket.recv())
        return answer

    def close(self) -> None:
        self._socket.close()
        self._context.term()
