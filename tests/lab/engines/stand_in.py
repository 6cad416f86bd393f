"""What all stand-ins share: settings, memory on simulated cards, lies, the control endpoint, one aiohttp server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from common.gpu.simulated import SIMULATED_CARDS_VARIABLE, use_bytes

GIB = 2**30
LOAD_STEPS = 4
SPOILING = ("hangs", "error", "html", "truncated", "resets", "huge")
UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB, "kB": 10**3, "MB": 10**6, "GB": 10**9}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def size(text: str) -> int:
    """A number of bytes from words such as 4GiB."""
    number, unit = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", text.strip()).groups()  # type: ignore[union-attr]
    return int(float(number) * UNITS[unit])


class Settings:
    """What the environment asks of a stand-in; the control endpoint changes the seconds and the lies."""

    SECONDS = ("load_s", "wake_s", "free_s", "token_s", "job_s")

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.load_s, self.wake_s, self.free_s, self.token_s, self.job_s = (
            float(environment.get(f"STAND_IN_{name.upper()}", "0")) for name in self.SECONDS
        )
        self.vram = size(environment["STAND_IN_VRAM"]) if environment.get("STAND_IN_VRAM") else None
        self.residual = size(environment.get("STAND_IN_RESIDUAL", "300MiB"))
        known = [entry.rpartition("=") for entry in environment.get("STAND_IN_MODELS", "").split(",") if entry]
        self.models = {name: size(amount) for name, _, amount in known}
        self.lies = {lie for lie in environment.get("STAND_IN_LIES", "").split(",") if lie}
        self.tied = bool(environment.get("STAND_IN_TIED"))
        self.reads = bool(environment.get("STAND_IN_READS"))

    def change(self, changes: Mapping[str, Any]) -> None:
        self.lies = set(changes.get("lies", self.lies))
        for name in self.SECONDS:
            setattr(self, name, float(changes.get(name, getattr(self, name))))


class Vram:
    """What this process holds, part by part, the same on each visible card; nothing where there is no card."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.parts: dict[str, int] = {}
        self.cards = visible_cards(environment)

    @property
    def held(self) -> int:
        return sum(self.parts.values())

    def hold(self, part: str, amount: int) -> None:
        self.parts[part] = amount
        if not amount:
            del self.parts[part]
        for card in self.cards:
            use_bytes(card, self.held)

    def total(self) -> int:
        """The size of the smallest visible card; 24 GiB where there is none."""
        return min(
            (json.loads((card / "card.json").read_bytes())["total_bytes"] for card in self.cards), default=24 * GIB
        )


def visible_cards(environment: Mapping[str, str]) -> list[Path]:
    """As CUDA has it: the cards named by UUID or index; where nothing is said, the first, which is what programs take."""
    folders = [Path(each) for each in environment.get(SIMULATED_CARDS_VARIABLE, "").split(":") if each]
    cards = [path.parent for folder in folders for path in sorted(folder.glob("*/card.json"))]
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return cards[:1]
    by_name = {str(index): card for index, card in enumerate(cards)}
    by_name |= {json.loads((card / "card.json").read_bytes())["uuid"]: card for card in cards}
    return [by_name[name.strip()] for name in named.split(",") if name.strip() in by_name]


class StandIn:
    """One server: its routes, its models in memory, and what it does about them, lies included."""

    kind = ""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.vram = Vram()
        self.loads: dict[str, asyncio.Task[None]] = {}
        self.leaving: dict[str, asyncio.Task[None]] = {}
        self.requests = 0
        self.acts: list[str] = []
        self.app = web.Application(
            middlewares=[self._spoil], client_max_size=64 * 2**20, handler_args={"handler_cancellation": True}
        )
        self.app.add_routes([web.get("/stand-in", self._told), web.post("/stand-in", self._tell)])
        self._tasks: set[asyncio.Task[Any]] = set()

    def lies(self, lie: str) -> bool:
        return lie in self.settings.lies

    def seen(self, amount: int) -> int:
        """What a list says of it."""
        return amount // 2 if self.lies("misreports") else amount

    async def load(self, part: str, amount: int, seconds: float | None = None, file: str = "") -> None:
        """Holds it when done, and has read the file then; a second load of the same part joins the first."""
        if part not in self.loads:
            took = self.settings.load_s if seconds is None else seconds
            self.loads[part] = self.later(self._load(part, amount, took, file))
            self.loads[part].add_done_callback(lambda _: self.loads.pop(part, None))
        await asyncio.shield(self.loads[part])

    async def _load(self, part: str, amount: int, seconds: float, file: str) -> None:
        if part in self.leaving:
            await self.leaving[part]
        if self.settings.reads:
            await asyncio.to_thread(read_through, file)
        start = self.vram.parts.get(part, 0)
        for step in range(1, LOAD_STEPS + 1):
            if seconds:
                await asyncio.sleep(seconds / LOAD_STEPS)
            self.vram.hold(part, start + (amount - start) * step // LOAD_STEPS)
            if self.lies("crashes_at_load") and step * 2 >= LOAD_STEPS:
                os._exit(1)

    def release(self, part: str, keep: int = 0) -> None:
        """Gives it up but for `keep`, now or after `free_s`, all of it or what the lies leave."""
        amount = self.vram.parts.get(part, 0)
        if self.lies("keeps_all"):
            return
        left = max(keep, amount // 2) if self.lies("keeps_half") else min(keep, amount)
        if not self.settings.free_s:
            self.vram.hold(part, left)
            return
        self.leaving[part] = self.later(self._release(part, left))
        self.leaving[part].add_done_callback(lambda _: self.leaving.pop(part, None))

    async def _release(self, part: str, left: int) -> None:
        await asyncio.sleep(self.settings.free_s)
        self.vram.hold(part, left)

    def later(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def begin(self) -> None:
        """Before it listens."""

    async def ready(self) -> None:
        """Once it listens."""

    def refused(self) -> web.Response | None:
        """The answer to an act where it refuses them."""
        return (
            web.json_response({"error": {"message": "out of luck", "code": 500}}, status=500)
            if self.lies("refuses")
            else None
        )

    async def _told(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "kind": self.kind,
                "pid": os.getpid(),
                "lies": sorted(self.settings.lies),
                "held": self.vram.held,
                "parts": self.vram.parts,
                "requests": self.requests,
                "acts": self.acts,
            }
        )

    async def _tell(self, request: web.Request) -> web.Response:
        self.settings.change(await request.json())
        return await self._told(request)

    @web.middleware
    async def _spoil(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/stand-in":
            return await handler(request)
        self.requests += 1
        lie = next((lie for lie in SPOILING if self.lies(lie)), "")
        return await spoiled(request, lie) if lie else await handler(request)


def read_through(file: str) -> None:
    """As a load does: as fast as the disk is, or the page cache; a name without a file is no file to read."""
    if not os.path.isfile(file):
        return
    with open(file, "rb", buffering=0) as weights:
        while weights.read(2**20):
            pass


async def spoiled(request: web.Request, lie: str) -> web.StreamResponse:
    """An answer that no client can use."""
    transport = request.transport
    assert transport is not None
    match lie:
        case "hangs":
            await asyncio.Event().wait()
        case "error":
            return web.json_response({"error": {"message": "it is all too much", "code": 500}}, status=500)
        case "html":
            return web.Response(text="<html><body><h1>It works!</h1></body></html>", content_type="text/html")
        case "huge":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            with suppress(ConnectionError):
                while True:
                    await response.write(b'["' + b"x" * 2**20 + b'"]')
        case "truncated":
            transport.write(
                b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"models": ['
            )
            transport.close()
    if lie != "truncated":
        transport.abort()
    await asyncio.Event().wait()  # until the broken connection cancels this
    raise AssertionError


def run(stand_in: StandIn, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT; tells its address on stdout once it listens."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(stand_in, host, port))


async def _serve(stand_in: StandIn, host: str, port: int) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None if stand_in.lies("ignores_term") else stop.set())
    if stand_in.settings.tied:
        loop.add_reader(0, lambda: None if os.read(0, 4096) else stop.set())
    serving = asyncio.create_task(_listen(stand_in, host, port))
    await asyncio.wait([serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        serving.result()
        await stop.wait()
    for part in list(stand_in.vram.parts):
        stand_in.vram.hold(part, 0)
    os._exit(0)


async def _listen(stand_in: StandIn, host: str, port: int) -> None:
    await stand_in.begin()
    runner = web.AppRunner(stand_in.app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    print(f"listening on http://{host}:{runner.addresses[0][1]}", flush=True)
    await stand_in.ready()
