"""A supervisor with managed models whose engines are stand-ins, on simulated cards, and a caller that streams."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from common.api.models import ASK_MODEL, USE_MODEL, AskModel, ModelBytes, ModelProgress, ModelReady, UseModel
from common.client.aio import AsyncClient
from common.client.directory import Place
from common.config.models import Model, ModelHealth
from common.config.schema import Ports, SimulatedCard, Stop
from common.config.units import Duration, Size
from common.supervisor.models.managed import Managed
from common.telemetry.system_clock import SystemClock, system_rng
from common.transport.sockets import Endpoint
from tests.common.supervisor.host import Host, running, startup
from tests.common.supervisor.startup_files import write_startup
from tests.lab.fabric import held_bytes
from tests.lab.nowhere import alone

ROOT = Path(__file__).resolve().parents[4]
GIB = 2**30
SUPERVISOR = "Supervisor/h"


def stand_in(module: str, *arguments: str) -> list[str]:
    return ["{python}", "-m", f"tests.lab.engines.{module}", *arguments, "--port", "{port}"]


def model(name: str, gib: float = 4, *arguments: str, engine: str = "llama-server", **fields: Any) -> Model:
    """A model with a stand-in for its engine; `env` adds to what tells the stand-in its size."""
    module = engine.replace("-", "_")
    named = ["-m", f"{name}.gguf", "-a", name] if engine == "llama-server" else ["--model", name]
    env = {"PYTHONPATH": str(ROOT), "STAND_IN_VRAM": f"{gib}GiB", **fields.pop("env", {})}
    return Model(
        **{
            "name": name,
            "engine": engine,
            "vram": Size(int((gib + 0.25) * GIB)),
            "command": stand_in(module, *named, *arguments),
            "cwd": str(ROOT),
            "env": env,
            "health": ModelHealth(ready_within_s=Duration(60)),
            "stop": Stop(term_s=Duration(fields.pop("term_s", 5))),
            **fields,
        }
    )


class Lab:
    """The supervisor and its caller."""

    def __init__(self, home: Path, host: Host, client: AsyncClient) -> None:
        self.home = home
        self.host = host
        self.client = client

    async def use(self, name: str, wait_s: float = 60.0, **fields: Any) -> ModelReady:
        """The model; what was told meanwhile is in `told`."""
        return (await self.told(name, wait_s, **fields))[1]

    async def told(self, name: str, wait_s: float = 60.0, **fields: Any) -> tuple[list[ModelProgress], ModelReady]:
        asked = UseModel(model=name, wait_s=wait_s, **fields)
        told: list[ModelProgress] = []
        async with aclosing(self.client.stream(SUPERVISOR, USE_MODEL, asked, timeout_s=wait_s + 60)) as items:
            async for item in items:
                if isinstance(item, ModelReady):
                    return told, item
                told.append(item)
        raise AssertionError("the stream ended without an answer")

    async def back(self, ready: ModelReady) -> None:
        """Gives the share back."""
        lease = ready.lease
        reply = await self.host.ask("release_lease", lease_id=lease.lease_id, fencing_token=lease.fencing_token)
        assert reply["status"] == "success", reply

    async def models(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in (await self.host.ask("list_models"))["models"]}

    async def states(self) -> dict[str, str]:
        return {name: each["state"] for name, each in (await self.models()).items()}

    @property
    def cards(self) -> Path:
        """The folder of its simulated cards."""
        return self.home / "h" / "cards"

    def held(self) -> int:
        """What all processes hold on all cards, counted from outside."""
        return sum(used for used, _ in held_bytes(self.home).values())

    def managed(self, name: str) -> Managed:
        return self.host.supervisor._models._roster.find(name)

    def state(self, name: str) -> str:
        return self.managed(name).life.state

    def may_retry(self, name: str) -> bool:
        return self.managed(name).life.may_retry(time.monotonic())

    def waiting(self) -> int:
        return self.host.supervisor._models._roster.waiting

    def gib(self, name: str) -> float:
        """What the model's engine holds."""
        serving = self.managed(name).serving
        assert serving is not None
        return int(_control(serving.url)["held"]) / GIB

    def tell(self, name: str, **changes: Any) -> None:
        """Changes the lies of the model's engine."""
        serving = self.managed(name).serving
        assert serving is not None
        _control(serving.url, changes)

    async def acts(self, ready: ModelReady) -> list[str]:
        return list((await asyncio.to_thread(_control, ready.url))["acts"])

    async def chat(self, url: str, name: str) -> None:
        body = json.dumps({"model": name, "stream": False, "messages": [{"role": "user", "content": "hello"}]}).encode()
        await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/api/chat", body, 60).read())

    async def unload(self, url: str, name: str) -> None:
        body = json.dumps({"model": name, "keep_alive": 0}).encode()
        await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/api/generate", body, 60).read())

    def measured(self, name: str) -> int:
        """What the cards show the model's lease to hold."""
        own, held = self.host.supervisor._leases, self.managed(name).held
        assert own is not None
        return own.own.find(held.lease_id).measured_bytes if held is not None else 0

    async def asked_under(self, lease_id: str, token: int, path: str) -> None:
        asked = AskModel(lease_id=lease_id, fencing_token=token, method="GET", path=path)
        await self.client.call(SUPERVISOR, ASK_MODEL, asked, timeout_s=60)

    def write(self, models: Sequence[Model], **fields: Any) -> None:
        """The startup file, as an operator would change it now."""
        told = msgspec.to_builtins(models, enc_hook=int)
        ports = Ports(1, 2, 3)
        file = write_startup(self.home / "startup.json", "h", ports, **{"models": told, **fields})
        self.host.supervisor._config = file

    async def decisions(self, subject: str) -> list[str]:
        receipts = (await self.host.ask("explain", subject=subject))["receipts"]
        return [receipt["decision"] for receipt in reversed(receipts)]

    async def asked(self, ready: ModelReady, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The engine's answer through `ask_model`."""
        asked = AskModel(
            lease_id=ready.lease.lease_id,
            fencing_token=ready.lease.fencing_token,
            method=method,  # type: ignore[arg-type]
            path=path,
            headers={"content-type": "application/json"},
            body=body,
        )
        status, data = 0, b""
        async with aclosing(self.client.stream(SUPERVISOR, ASK_MODEL, asked, timeout_s=60)) as items:
            async for item in items:
                assert isinstance(item, ModelBytes)
                status, data = status or item.http_status, data + item.data
        return status, data


@asynccontextmanager
async def lab(home: Path, models: Sequence[Model], cards_gib: Sequence[float] = (12,)) -> AsyncIterator[Lab]:
    cards = [SimulatedCard(Size(int(gib * GIB)), "simulated") for gib in cards_gib]
    file = msgspec.structs.replace(startup("h"), simulated_cards=cards, models=list(models))
    async with running(home, file) as (host,):
        shell = host.supervisor.shell
        place = Place(Endpoint.tcp("127.0.0.1", shell.port), Endpoint.tcp("127.0.0.1", shell.events_port))
        async with AsyncClient(alone({SUPERVISOR: place}), SystemClock(), system_rng()) as client:
            yield Lab(home, host, client)


def _control(url: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a stand-in really holds; what it is told to do from now on."""
    body = None if changes is None else json.dumps(changes).encode()
    request = urllib.request.Request(f"{url}/stand-in", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        told: dict[str, Any] = json.load(answer)
        return told
