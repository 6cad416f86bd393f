from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from common.config.schema import Agent, Service, SimulatedCard
from common.config.units import Size
from common.gpu.process_identity import identify, this_process
from common.gpu.simulated import GIB, card_uuid, cards_folder, use_bytes
from common.supervisor.desk import Standing
from common.supervisor.instructions import Launched
from common.supervisor.leasing.restarting import FileOwners
from tests.common.supervisor.host import agent, running, startup
from tests.common.supervisor.leasing.test_evicting import order
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
        async with asyncio.timeout(60):
            while not rungs:
                rungs = await evicted()
        assert rungs == ["stop"]
        admitted = await host.ask("admit_lease", lease_id="new", model="m", bytes=5 * GIB)
        assert admitted["status"] == "success"


@pytest.mark.parametrize(("kind", "spared"), [("service", "base is a service of the fabric"), ("agent", "")])
def test_a_service_is_never_ended_for_the_sake_of_a_lease(kind: str, spared: str) -> None:
    me = this_process()
    entry = Service(name="base", command=["x"], port=1) if kind == "service" else Agent(name="base", command=["x"])
    launched = Launched("base", 1, 0.0, me.pid, me.start_time)
    standing = Standing(entry, "ready", "", launched, 1, 0.0, 0, "", ())
    found = FileOwners(lambda: [standing], lambda _: None).find(order(me))
    assert found is not None
    assert found.spared == spared


def test_whoever_is_of_no_startup_file_is_not_found() -> None:
    nobody = FileOwners(list, lambda _: None)
    assert nobody.find(order(this_process())) is None
    assert nobody.find(order()) is None
