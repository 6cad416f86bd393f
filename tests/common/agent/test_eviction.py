"""An agent of the library and a real supervisor: its memory goes when it is asked for, and comes back for the next use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.client.directory import SERVICES_VARIABLE
from common.gpu.simulated import GIB, card_uuid, use_bytes
from tandem import Agent, HeldLease, on_unload, verb
from tests.common.agent.lab import serving
from tests.common.service.lab import until
from tests.common.supervisor.leasing.lab import card_folder, host, two_cards
from tests.lab.nowhere import only

CARD = card_uuid("mainpc", 0)


class Keeper(Agent):
    """Keeps ten GiB of a card between uses."""

    folder: Path
    forgotten = 0

    async def started(self) -> None:
        self.vram: HeldLease = self.lease("whisper", 10 * GIB, in_use=False, card_uuid=CARD, wait_s=0.0)

    @verb
    def hear(self) -> None:
        with self.vram.busy():
            use_bytes(self.folder, 10 * GIB)

    @on_unload
    def forget(self) -> None:
        use_bytes(self.folder, 0)
        self.forgotten += 1


async def test_an_agent_gives_way_and_is_back_at_its_next_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with host(two_cards(tmp_path)) as mainpc:
        monkeypatch.setenv(SERVICES_VARIABLE, only(f"Supervisor/mainpc={mainpc.shell.port}@127.0.0.1"))
        agent = Keeper("keeper")
        agent.folder = card_folder(tmp_path)
        async with serving(agent):
            await asyncio.to_thread(agent.hear)
            first = agent.vram.granted.lease_id
            room = {"lease_id": "new", "model": "llm", "bytes": 20 * GIB, "priority": 50, "card_uuid": CARD}
            async with asyncio.timeout(60):
                while (await mainpc.ask("make_room", **room))["status"] != "success":
                    await asyncio.sleep(0.01)  # until the look that shows it idle, and what it holds
                await agent.vram.lost.wait()
            assert agent.forgotten == 1
            assert (await mainpc.decisions(first))[-1] in ("expiring", "evicted")
            async with asyncio.timeout(60):
                while (await mainpc.ask("admit_lease", lease_id="new", model="llm", bytes=20 * GIB))[
                    "status"
                ] != "success":
                    await asyncio.sleep(0.01)
            assert (await mainpc.decisions(first))[-1] == "evicted"
            granted = next(each for each in (await mainpc.ask("list_leases"))["leases"] if each["lease_id"] == "new")
            await mainpc.release(granted)
            await asyncio.to_thread(agent.hear)
            assert agent.vram.held
            assert agent.vram.granted.lease_id != first
        await until(lambda: not len(mainpc.leases._writer.table))
