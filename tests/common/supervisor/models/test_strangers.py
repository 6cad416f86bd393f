"""A game on the card of managed models: they make way, asleep or stopped, and are back when it has gone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from common.gpu.process_identity import start_time
from common.gpu.simulated import use_bytes
from common.vram.demand import ModelKey
from tests.common.service.lab import until
from tests.common.supervisor.leasing.lab import program
from tests.common.supervisor.leasing.test_strangers import DEAF
from tests.common.supervisor.models.lab import GIB, Lab, lab, model


async def comes(lab_: Lab, name: str, state: str) -> None:
    async with asyncio.timeout(90):
        while lab_.state(name) != state:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("engine", ["vllm", "llama-server"])
async def test_a_game_that_takes_14_gib_of_16_has_an_idle_model_make_way_and_it_is_back_after(
    tmp_path: Path, engine: str
) -> None:
    arguments = ("--enable-sleep-mode",) if engine == "vllm" else ()
    qwen = model("qwen", 3, *arguments, engine=engine, env={"VLLM_SERVER_DEV_MODE": "1"})
    with program(*DEAF) as game:
        async with lab(tmp_path, [qwen], cards_gib=(16,)) as desk:
            await desk.back(await desk.use("qwen"))
            await until(lambda: desk.measured("qwen") > 2 * GIB)
            loads = desk.host.supervisor._models.footprints.get(ModelKey("qwen")).load_s
            assert set(loads) == {"cold"}, "one store for engines and for other leases"
            began = time.monotonic()
            use_bytes(desk.cards / "0", 14 * GIB, game)
            await comes(desk, "qwen", "parked" if engine == "vllm" else "absent")
            print(f"{engine} had made way after {time.monotonic() - began:.2f} s")
            assert start_time(game.pid) == game.start_time
            use_bytes(desk.cards / "0", 0, game)
            await comes(desk, "qwen", "ready")
            assert start_time(game.pid) == game.start_time, "it never heard a signal"
            assert desk.gib("qwen") == 3
            told = (await desk.host.ask("explain", subject="qwen"))["receipts"]
            back = next(each for each in told if each["decision"] in ("granted", "unparked") and each["need_bytes"])
            assert back["reason"].endswith(f" (pid {game.pid}) left")
            assert "; returned after " in back["reason"]
