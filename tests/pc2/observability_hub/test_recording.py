"""What is recorded is in the history once, whatever fails and whoever asks meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common.api import observability_hub as api
from common.errors import StorageUnavailable
from common.service.shell import Shell, ShellSettings
from pc2.observability_hub.history import History
from pc2.observability_hub.recording import FORGET_EVERY, Recording
from pc2.observability_hub.series import LARGEST


@asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[Recording]:
    shell = Shell(ShellSettings(api.SERVICE, "pc2", 0, 0, 0))
    made = Recording(shell, folder / "metrics.db")
    made.add_routes()
    try:
        yield made
    finally:
        await made.close()
        await shell.close()


async def told(of: Recording, aggregate: Any) -> list[float]:
    """The values of `load` so far, in one step of an hour."""
    route = of._shell.routes.get("query_metrics")
    assert route is not None
    asked = api.QueryMetrics(name="load", aggregate=aggregate, step_s=3_600.0)
    history = await route.handler(asked, None)  # type: ignore[arg-type]
    return [point.value for one in history.series for point in one.points]


async def test_points_are_not_written_again_when_only_the_forgetting_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recording(tmp_path) as one:

        def refuse(_self: History, _now: float) -> None:
            raise StorageUnavailable("the disk is full")

        one.record("a", "load", 1.0, {}, "gauge")
        with monkeypatch.context() as full:
            full.setattr(History, "forget", refuse)
            await one.write()
            assert one.failures == 1
        for _ in range(2):
            await one.write()
        assert sum(await told(one, "count")) == 1.0
        assert one._shell.report().status == "ok"


async def test_series_without_history_are_forgotten_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []
    monkeypatch.setattr(History, "forget", lambda _self, now: times.append(now))
    async with recording(tmp_path) as one:
        for _ in range(FORGET_EVERY):
            await one.write()
        assert len(times) == 1
        await one.write()
        assert len(times) == 2


async def test_a_question_during_a_write_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go, write = threading.Event(), threading.Event(), History.write

    def slow(self: History, *given: Any) -> None:
        begun.set()
        go.wait(60)
        write(self, *given)

    async with recording(tmp_path) as one:
        one.record("a", "load", 1.0, {}, "gauge")
        monkeypatch.setattr(History, "write", slow)
        writing = asyncio.create_task(one.write())
        await asyncio.to_thread(begun.wait, 20.0)
        asking = asyncio.create_task(told(one, "count"))
        await asyncio.sleep(0)
        go.set()
        await writing
        assert sum(await asking) == 1.0


async def test_the_largest_numbers_have_an_average(tmp_path: Path) -> None:
    async with recording(tmp_path) as one:
        for value in (LARGEST, LARGEST, -LARGEST, -LARGEST):
            one.record("a", "load", value, {}, "gauge")
            await one.write()
        assert sum(await told(one, "avg")) == 0.0


async def test_marks_that_wait_for_the_disk_are_one_for_each_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: History, *_given: Any) -> None:
        raise StorageUnavailable("the disk is full")

    async with recording(tmp_path) as one:
        with monkeypatch.context() as full:
            full.setattr(History, "write", refuse)
            for seq in range(1, 4):
                one._deliveries.repeated("a@pc2", 1, seq)
                await one.write()
            assert {mark.seq for mark in one._marks.values()} == {3}
