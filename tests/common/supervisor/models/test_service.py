"""Managed models on a real supervisor: engines as processes on simulated cards, leases through its own line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.common.supervisor.models.lab import lab, model

pytestmark = pytest.mark.usefixtures("wrappers")


async def test_a_model_is_loaded_for_whoever_asks_and_is_shared_and_gives_way_when_idle(tmp_path: Path) -> None:
    models = [model("small", 4, aliases=["tiny"], slots=2), model("big", 9)]
    async with lab(tmp_path, models) as it:
        assert await it.states() == {"small": "absent", "big": "absent"}
        told, first = await it.told("tiny")
        assert told
        second = await it.use("small", wait_s=0)
        print(told, first, second)
        assert first.lease.shares == second.lease.shares
        await it.back(first)
        await it.back(second)
        big = await it.use("big")
        print(await it.states(), await it.decisions("small"))
        assert (await it.states())["small"] == "absent"
        await it.back(big)
