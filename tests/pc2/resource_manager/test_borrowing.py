"""Models of two hosts through ResourceManager: whose is asked, what is passed through, and what a host that is away costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from common.api import models
from common.api.leases import LeaseGranted
from common.api.words import Cursor
from common.errors import NoCapacity, NotFound, TandemError, Unavailable
from common.service.call import Call
from common.vram.amount import GIB
from tests.pc2.resource_manager.fabric import PATIENCE_S, RM, Fabric, Host, manager
from tests.pc2.resource_manager.test_model_choice import model


class Shelf(Host):
    """A host with models: what it says of them, and what it answers who asks for one."""

    def __init__(self, name: str, folder: Path, cards: tuple[float, ...]) -> None:
        super().__init__(name, folder, cards)
        self.models: list[models.Model] = []
        self.refusals: list[TandemError] = []
        self.used: list[models.UseModel] = []
        self.shell.handle(models.USE_MODEL, self._use)
        self.shell.handle(models.LIST_MODELS, lambda _asked, _call: models.Models(self.models, Cursor(epoch=1, seq=0)))
        self.shell.handle(models.STOP_MODEL, lambda _asked, _call: models.ModelStopped("absent", 7))

    async def _use(self, asked: models.UseModel, call: Call) -> models.ModelReady:
        self.used.append(asked)
        if self.refusals:
            raise self.refusals.pop(0)
        call.part(models.ModelProgress("loading", self.name, 0, 0.0, 3.0, "cold"))
        lease = LeaseGranted(f"lease-{self.name}", self.name, 0, "GPU-0", 7, 30.0, 0)
        return models.ModelReady(
            "qwen", self.name, "http://127.0.0.1:1", "qwen", "llama-server", lease, 0.0, loaded=True
        )


@asynccontextmanager
async def shelves(folder: Path) -> AsyncIterator[tuple[Fabric, Shelf, Shelf]]:
    mainpc, pc2 = Shelf("mainpc", folder / "mainpc", (24,)), Shelf("pc2", folder / "pc2", (12,))
    async with AsyncExitStack() as stack:
        for host in (mainpc, pc2):
            await host.open()
            stack.push_async_callback(host.close)
        fabric = await stack.enter_async_context(manager({"mainpc": mainpc, "pc2": pc2}))
        yield fabric, mainpc, pc2


async def use(fabric: Fabric, name: str = "qwen", wait_s: float = PATIENCE_S) -> list[object]:
    """What is told on the way, and the end."""
    asked = models.UseModel(model=name, wait_s=wait_s)
    return [item async for item in fabric.client.stream(RM, models.USE_MODEL, asked, timeout_s=PATIENCE_S)]


async def test_the_host_that_has_it_is_asked_and_its_words_are_passed_through(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (fabric, mainpc, pc2):
        mainpc.models, pc2.models = [model("mainpc")], [model("pc2", "ready")]
        progress, ready = await use(fabric, "gpt-4o")
        assert isinstance(progress, models.ModelProgress)
        assert isinstance(ready, models.ModelReady)
        assert (progress.eta_s, ready.host) == (3.0, "pc2")
        assert mainpc.used == []


async def test_where_it_must_be_loaded_the_host_with_room_is_asked(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (fabric, mainpc, pc2):
        mainpc.models = [model("mainpc", footprint_bytes=20 * GIB)]
        pc2.models = [
            model("pc2", footprint_bytes=20 * GIB, load_s=1.0),
            model("pc2", name="small", footprint_bytes=0, declared_bytes=0),
        ]
        assert (await use(fabric))[-1].host == "mainpc"  # type: ignore[attr-defined]
        assert (await use(fabric, "small"))[-1].host == "pc2"  # type: ignore[attr-defined]


async def test_where_one_host_refuses_for_now_the_next_is_asked(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (fabric, mainpc, pc2):
        mainpc.models, pc2.models = [model("mainpc", "ready")], [model("pc2")]
        mainpc.refusals = [NoCapacity("all its slots are taken")]
        assert (await use(fabric))[-1].host == "pc2"  # type: ignore[attr-defined]
        mainpc.refusals, pc2.refusals = [NoCapacity("all its slots are taken")], [NoCapacity("no room")]
        with pytest.raises(NoCapacity, match="all its slots are taken"):
            await use(fabric, wait_s=0.0)


async def test_models_of_all_hosts_are_listed_and_those_away_are_named(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (fabric, mainpc, pc2):
        mainpc.models, pc2.models = [model("mainpc", "ready")], [model("pc2", name="other")]
        listed = await fabric.client.call(RM, models.LIST_MODELS, models.ListModels(), timeout_s=PATIENCE_S)
        assert [(each.host, each.name) for each in listed.models] == [("mainpc", "qwen"), ("pc2", "other")]
        await pc2.cable.cut()
        listed = await fabric.client.call(RM, models.LIST_MODELS, models.ListModels(), timeout_s=PATIENCE_S)
        assert ([each.name for each in listed.models], list(listed.missing)) == (["qwen"], ["pc2"])
        assert (await use(fabric))[-1].host == "mainpc"  # type: ignore[attr-defined]
        with pytest.raises(Unavailable, match="no model 'other' that can be heard of"):
            await use(fabric, "other")


async def test_a_model_is_stopped_where_it_runs(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (fabric, mainpc, pc2):
        mainpc.models, pc2.models = [model("mainpc")], [model("pc2", "ready")]

        async def stop(name: str) -> models.ModelStopped:
            return await fabric.client.call(RM, models.STOP_MODEL, models.StopModel(model=name), timeout_s=PATIENCE_S)

        assert await stop("gpt-4o") == models.ModelStopped("absent", 7)
        pc2.models = [model("pc2")]
        with pytest.raises(NotFound, match="runs nowhere"):
            await stop("qwen")
        with pytest.raises(NotFound, match="no model"):
            await stop("none")
