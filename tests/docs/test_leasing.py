"""The program of docs/agents.md that keeps its model on the card, with a supervisor that takes the memory back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from common.api.leases import Unload
from common.client.directory import SERVICES_VARIABLE
from tests.common.agent.lab import fabric
from tests.common.service.lab import peer, until
from tests.docs.documents import ROOT


async def test_a_model_is_leased_for_its_first_call_and_again_after_it_had_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fabric(monkeypatch, manager=False) as around:
        environment = os.environ | {"TANDEM_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        assert SERVICES_VARIABLE in environment
        program = str(ROOT / "examples" / "leasing" / "kept_model.py")
        agent = await asyncio.create_subprocess_exec(sys.executable, program, cwd=ROOT, env=environment)
        try:
            await until(lambda: "word-reader" in around.registry.agents)
            keeper = around.supervisor
            async with peer(around.registry.agents["word-reader"].port) as caller:
                assert (await caller.plain("read_words", data="one two three"))["words"] == 3
                await until(lambda: not keeper.in_use("lease-1"))
                (asked,) = keeper.asked
                assert isinstance(asked.unload, Unload)
                keeper.held.clear()
                told = await caller.plain(asked.unload.unload, model="word-reader", lease_id="lease-1")
                assert told["status"] == "success"
                assert (await caller.plain("read_words", data="four"))["words"] == 1
            assert list(keeper.held) == ["lease-2"]
        finally:
            agent.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(agent.wait(), 60) == 0
        assert keeper.held == {}
