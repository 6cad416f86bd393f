"""A host whose supervisor lends models: each takes its room in the host's real lease table, over simulated cards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common.api import leases, models
from common.api.leases import AcquireLease, Lease, ReleaseLease
from common.api.words import Cursor
from common.client.opening import open_async_client
from common.client.pursuit import Found
from common.errors import TandemError
from common.service.call import Call
from common.transport.sockets import Endpoint
from common.vram.amount import GIB
from tests.pc2.resource_manager.fabric import PATIENCE_S, Host, directory
from tests.pc2.resource_manager.test_model_choice import model


class ModelHost(Host):
    """One card; `sizes` are its models' in GiB."""

    def __init__(self, name: str, folder: Path, card_gib: float = 24, **sizes: float) -> None:
        super().__init__(name, folder, (card_gib,))
        self.sizes = sizes
        self.used: list[models.UseModel] = []
        self.refusals: list[TandemError] = []
        self.shell.handle(models.USE_MODEL, self._use)
        self.shell.handle(models.LIST_MODELS, self._list)

    async def open(self) -> None:
        await super().open()
        self._client = open_async_client(None, directory([self]))

    async def close(self) -> None:
        await self._client.close()
        await super().close()

    def shares(self, name: str) -> list[Lease]:
        """The loans of the model that live."""
        return [lease for lease in self.live if lease.model == name]

    async def end(self, lease: Lease) -> None:
        """The loan ends, whoever has it."""
        asked = ReleaseLease(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
        await self._client.call(f"Supervisor/{self.name}", leases.RELEASE_LEASE, asked, timeout_s=PATIENCE_S)

    async def _use(self, asked: models.UseModel, call: Call) -> models.ModelReady:
        self.used.append(asked)
        if self.refusals:
            raise self.refusals.pop(0)
        call.part(models.ModelProgress("queued", self.name, 1, 0.0, 7.0, "others use the card"))
        need = int(self.sizes[asked.model] * GIB)
        wanted = AcquireLease(model=asked.model, bytes=need, ttl_s=asked.ttl_s, wait_s=asked.wait_s)
        there = Found(Endpoint.tcp("127.0.0.1", self.shell.port))
        lease = await self._client.call_at(there, leases.ACQUIRE_LEASE, wanted, timeout_s=asked.wait_s + PATIENCE_S)
        url = f"http://127.0.0.1:1/{self.name}"
        return models.ModelReady(asked.model, self.name, url, "served", "llama-server", lease, 0.0, loaded=True)

    def _list(self, _asked: models.ListModels, _call: Call) -> models.Models:
        known = [model(self.name, name=name, aliases=[], footprint_bytes=0, declared_bytes=0) for name in self.sizes]
        return models.Models(known, Cursor(epoch=1, seq=0))


@asynccontextmanager
async def model_host(folder: Path, name: str = "pc2", **sizes: float) -> AsyncIterator[ModelHost]:
    """One that serves."""
    made = ModelHost(name, folder / name, **sizes)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
