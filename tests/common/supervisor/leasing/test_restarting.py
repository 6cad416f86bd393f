from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from common.config.schema import SimulatedCard
from common.config.units import Size
from common.gpu.process_identity import identify
from common.gpu.simulated import GIB, card_uuid, cards_folder, use_bytes
from tests.common.supervisor.host import agent, running, startup
from tests.common.supervisor.lives import until


@pytest.mark.usefixtures("wrappers")
async def test_an_agent_of_the_startup_file_whose_lease_has_to_go_is_restarted(tmp_path: Path) -> None:
    file = startup("h", agent("keeper"), agent("other"))
    cards = [SimulatedCard(Size(8 * GIB), "small")]
    async with running(tmp_path, msgspec.structs.replace(file, simulated_cards=cards)) as (host,):
        await until(lambda: set(host.phases().values()) == {"ready"})
        first, other = host.pid("keeper"), host.pid("other")
        held = await host.ask(
            "acquire_lease", model="llm", bytes=6 * GIB, owner={"pid": first}, in_use=False, idempotency_key="k"
        )
        use_bytes(cards_folder(tmp_path, "h") / "0", 6 * GIB, identify(first))
        room = {"lease_id": "new", "model": "m", "bytes": 5 * GIB, "priority": 50, "card_uuid": card_uuid("h", 0)}
        assert (await host.ask("make_room", **room))["victims"][0]["lease_id"] == held["lease_id"]
        await until(lambda: host.pid("keeper") not in (0, first) and host.phases()["keeper"] == "ready")
        assert host.pid("other") == other

        async def evicted() -> list[str]:
            told = await host.ask("explain", subject=held["lease_id"])
            return [
                rung["rung"] for each in told["receipts"] if each["decision"] == "evicted" for rung in each["rungs"]
            ]

        rungs: list[str] = []
        while not rungs:
            rungs = await evicted()
        assert rungs == ["stop"]
        admitted = await host.ask("admit_lease", lease_id="new", model="m", bytes=5 * GIB)
        assert admitted["status"] == "success"
