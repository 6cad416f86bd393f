"""A supervisor with managed models whose engines are stand-ins, on simulated cards, and a caller that streams."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from common.api.models import ASK_MODEL, USE_MODEL, AskModel, ModelBytes, ModelProgress, ModelReady, UseModel
from common.client.aio import AsyncClient
from common.client.directory import Directory, Place
from common.config.models import Model, ModelHealth
from common.config.schema import SimulatedCard, Stop
from common.config.units import Duration, Size
from common.telemetry.system_clock import SystemClock, system_rng
from common.transport.sockets import Endpoint
from tests.common.supervisor.host import Host, running, startup

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
            "stop": Stop(term_s=Duration(5)),
            **fields,
        }
    )


class Lab:
    """The supervisor and its caller."""

    def __init__(self, host: Host, client: AsyncClient) -> None:
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

    async def used_gib(self, index: int = 0) -> float:
        return float((await self.host.ask("get_gpus"))["cards"][index]["used_bytes"]) / GIB

    async def decisions(self, subject: str) -> list[str]:
        receipts = (await self.host.ask("explain", subject=subject))["receipts"]
        return [receipt["decision"] for receipt in reversed(receipts)]

    async def asked(self, ready: ModelReady, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The engine's answer through `ask_model`."""
        asked = AskModel(
            lease_id=ready.lease.lease_id,
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
        async with AsyncClient(Directory({SUPERVISOR: place}), SystemClock(), system_rng()) as client:
            yield Lab(host, client)


def environ() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
