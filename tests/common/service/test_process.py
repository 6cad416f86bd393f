from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from common.service import process
from common.service.shell import Shell, ShellSettings


class Recorded:
    """A service that is told to stop while it opens."""

    def __init__(self) -> None:
        self.shell = Shell(ShellSettings("Recorded", "pc2", 0, 0), [])
        self.done: list[str] = []

    async def open(self) -> None:
        self.done.append("open")
        self.stop()

    def stop(self) -> None:
        raise AssertionError("no signal is heeded while it opens")

    async def close(self) -> None:
        self.done.append("close")


async def test_a_service_that_is_told_to_stop_while_it_opens_stops_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Recorded()

    def heed(stop: Callable[[], None]) -> None:
        monkeypatch.setattr(service, "stop", stop)

    monkeypatch.setattr(process, "on_stop_signal", heed)
    monkeypatch.setattr(process, "calm_collector", lambda: None)
    try:
        await asyncio.wait_for(process._serve(lambda: service, None), timeout=60)
    finally:
        await service.shell.close(drain_s=0)
    assert service.done == ["open", "close"]
