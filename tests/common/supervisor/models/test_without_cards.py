"""Models that take no VRAM: on a host without any card, and beside a card that takes no lease."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.api.models import Model as Shown
from common.config.models import Idle, Model, ModelHealth, Needs
from common.config.units import Duration, Size
from common.errors import NoCapacity
from tests.common.supervisor.lives import ended, until
from tests.common.supervisor.models.lab import GIB, Lab, lab, model

pytestmark = pytest.mark.usefixtures("wrappers")


def bare(name: str, **fields: Any) -> Model:
    """An engine that computes on the CPU."""
    command = ["{python}", "-m", "tests.lab.engines.openai_server", "--model", name, "--port", "{port}"]
    health = ModelHealth(how="tcp", ready_within_s=Duration(60))
    return model(name, 0, engine="openai", command=command, vram=Size(0), health=health, **fields)


async def leases(it: Lab) -> list[dict[str, Any]]:
    return list((await it.host.ask("list_leases"))["leases"])


async def test_it_is_started_asked_shared_listed_and_stopped_where_there_is_no_card(tmp_path: Path) -> None:
    async with lab(tmp_path, [bare("piper", slots=2), model("llama", 4)], cards_gib=()) as it:
        assert (await it.host.ask("get_gpus"))["cards"] == []
        first, second = await asyncio.gather(it.use("piper"), it.use("piper"))
        assert (first.lease.card_uuid, first.lease.card_uuids, first.lease.bytes) == ("", [], 0)
        assert first.lease.shares == second.lease.shares
        assert (await it.asked(first, "GET", "/v1/models"))[0] == 200
        shown = (await it.models())["piper"]
        assert (shown["state"], shown["users"], shown["card_uuid"]) == ("ready", 2, "")
        with pytest.raises(NoCapacity, match="all 2 slots"):
            await it.use("piper", wait_s=0)
        with pytest.raises(NoCapacity, match=r"llama needs 4\.2 GiB of a card, and h has none"):
            await it.use("llama")

        draining = [lease for lease in await leases(it) if not lease["shares"]]
        assert [(lease["in_use"], lease["users"]) for lease in draining] == [(True, 2)]
        stopped = await it.host.ask("stop_model", model="piper")
        assert (stopped["state"], stopped["returned_bytes"]) == ("absent", 0)
        assert ended(shown["pid"])
        assert await leases(it) == []


async def test_it_counts_the_hosts_ram_and_goes_for_who_waits_for_that_once_it_is_idle(tmp_path: Path) -> None:
    most = int(psutil.virtual_memory().total * 0.45)
    needs = Needs(ram=Size(int(most)))
    models = [bare("a", needs=needs), bare("b", needs=needs)]
    async with lab(tmp_path, models, cards_gib=()) as it:
        first = await it.use("a")
        (host,) = (await it.host.ask("get_gpus"))["hosts"]
        assert host["ram_leased_bytes"] == most
        waiting = asyncio.create_task(it.use("b"))
        await until(lambda: "of host RAM needed" in it.managed("b").no_room)
        assert "leased: a" in it.managed("b").no_room
        assert it.state("b") == "queued"
        assert it.state("a") == "ready", "who is in use goes for nobody"
        await it.back(first)
        await it.back(await waiting)
        assert await it.states() == {"a": "absent", "b": "ready"}
        assert (await it.decisions("a"))[-1] == "evicted"


async def test_its_end_by_itself_and_its_idleness_are_noticed(tmp_path: Path) -> None:
    brief = bare("brief", idle=Idle(after_s=Duration(0.5)))
    async with lab(tmp_path, [brief], cards_gib=()) as it:
        await it.use("brief")
        pid = (await it.models())["brief"]["pid"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: it.state("brief") == "failed")
        assert await leases(it) == []
        await it.back(await it.use("brief"))
        await until(lambda: it.state("brief") == "absent")
        assert await leases(it) == []


async def test_a_card_that_takes_no_lease_and_one_that_somebody_has_alone_are_nothing_to_it(tmp_path: Path) -> None:
    alone = model("alone", 3, exclusive=True)
    async with lab(tmp_path, [alone, bare("piper")], cards_gib=(12,)) as it:
        used = await it.use("alone")
        it.host.supervisor._leases._writer.closed = {used.lease.card_uuid: "unknown growth"}  # type: ignore[union-attr]
        await it.use("piper")
        shown = Shown(**(await it.models())["piper"])
        assert (shown.state, shown.card_uuid) == ("ready", "")
        assert it.held() == 3 * GIB
        stopped = await it.host.ask("stop_model", model="piper")
        assert stopped["state"] == "absent"
