from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from common.config.loader import load
from common.config.schema import Ports, SimulatedCard, Startup
from common.config.units import Size
from common.errors import Unavailable
from common.gpu.cards import CardSource
from common.gpu.simulated import GIB
from common.supervisor import card_source
from common.supervisor.card_source import host_cards
from tests.common.supervisor.leasing.lab import host, two_cards

STARTUP = Startup(
    version=1,
    host="mainpc",
    supervisor=Ports(),
    simulated_cards=[SimulatedCard(Size(24 * GIB)), SimulatedCard(Size(GIB))],
)


class SlowDriver:
    """A driver that wakes when it is told to, with cards or without."""

    def __init__(self, cards: CardSource | None) -> None:
        self.awake = threading.Event()
        self._cards = cards

    def open(self, *_: Any, **__: Any) -> CardSource:
        assert self.awake.wait(60)
        if self._cards is None:
            raise Unavailable("no NVIDIA driver library on mainpc")
        return self._cards


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str) -> CardSource:
        raise Unavailable(f"no NVIDIA driver library on {host}")

    monkeypatch.setattr("common.gpu.cards.NvmlCards", refuse)


@pytest.mark.usefixtures("no_driver")
async def test_without_a_driver_there_are_no_cards_unless_they_are_to_be_simulated(tmp_path: Path) -> None:
    assert await host_cards(STARTUP, tmp_path, simulate=False) == (None, "no NVIDIA driver library on mainpc", None)
    found = await host_cards(STARTUP, tmp_path, simulate=True)
    assert found.folder == tmp_path / "mainpc" / "cards"
    assert found.source is not None
    assert [sample.total_bytes for sample in found.source.sample(0.0)] == [24 * GIB, GIB]
    found.source.close()


async def test_real_cards_that_are_to_be_left_alone_are_not_even_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("common.gpu.cards.NvmlCards", asked.append)
    found = await host_cards(STARTUP, tmp_path, simulate=True, leave_real=True)
    assert (asked, found.folder) == ([], tmp_path / "mainpc" / "cards")
    assert found.source is not None
    assert all(sample.simulated for sample in found.source.sample(0.0))
    found.source.close()


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize(("file", "gib"), [("startup_main.yaml", 24), ("startup_pc2.yaml", 12)])
async def test_the_default_files_simulate_a_large_card_and_a_small_one(tmp_path: Path, file: str, gib: int) -> None:
    startup = load(Path(__file__).parents[3] / "config" / file)
    assert isinstance(startup, Startup)
    found = await host_cards(startup, tmp_path, simulate=True)
    assert found.source is not None
    assert [sample.total_bytes for sample in found.source.sample(0.0)] == [gib * GIB]
    found.source.close()


async def test_a_start_does_not_wait_for_a_driver_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = SlowDriver(two_cards(tmp_path))
    monkeypatch.setattr(card_source, "open_cards", driver.open)
    monkeypatch.setattr("common.supervisor.leasing.card_watch.FIRST_LOOK_S", 0.05)
    late = await host_cards(STARTUP, tmp_path, simulate=False, within_s=0.05)
    async with host(late.source) as mainpc:
        assert (await mainpc.ask("get_gpus"))["missing"] == {"mainpc": "the cards have not been measured yet"}
        driver.awake.set()
        granted = await mainpc.granted(10, wait_s=20)
        assert granted["host"] == "mainpc"


async def test_a_driver_that_wakes_late_and_has_no_cards_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = SlowDriver(None)
    monkeypatch.setattr(card_source, "open_cards", driver.open)
    late = await host_cards(STARTUP, tmp_path, simulate=False, within_s=0.05)
    assert late.source is not None
    late.source.close()
    driver.awake.set()
    with pytest.raises(Unavailable, match="no NVIDIA driver library"):
        await asyncio.to_thread(late.source.sample, 0.0)
    late.source.close()


def test_a_driver_that_hangs_keeps_no_process_from_ending() -> None:
    code = (
        "import asyncio, threading\n"
        "from pathlib import Path\n"
        "from common.config.schema import Ports, Startup\n"
        "from common.supervisor import card_source\n"
        "card_source.open_cards = lambda host: threading.Event().wait()\n"
        "startup = Startup(version=1, host='mainpc', supervisor=Ports())\n"
        "asyncio.run(card_source.host_cards(startup, Path('/nowhere'), simulate=False, within_s=0.05))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
