from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import common
from common.api import supervisor
from common.errors import StorageUnavailable
from common.service.shell import Shell, ShellSettings
from common.store.memory import MemoryStore
from common.store.open import open_store
from common.store.protocol import Change, Durability
from common.store.sqlite import SqliteStore
from common.supervisor.leasing.card_leases import CardLeases
from common.vram.fencing import parse
from tests.common.service.lab import Peer, peer, raises, until
from tests.common.supervisor.leasing import child as host_process
from tests.common.supervisor.leasing.lab import GIB, host, owner, program, two_cards


async def test_a_restart_keeps_leases_with_their_tokens_and_raises_the_epoch(tmp_path: Path) -> None:
    cards = two_cards(tmp_path)
    with program() as survivor, program() as victim:
        async with host(cards, open_store(tmp_path / "store", "leases")) as before:
            kept = await before.granted(3, owner=owner(survivor))
            await before.granted(3, owner=owner(victim))
            unowned = await before.granted(3, ttl_s=60)
        os.kill(victim.pid, signal.SIGKILL)
        async with host(cards, open_store(tmp_path / "store", "leases")) as after:
            await until(lambda: after.leases._writer.decided["owner-died"] == 1)
            assert await after.held() == [kept["lease_id"], unowned["lease_id"]]
            later = await after.granted(1)
            assert parse(later["fencing_token"]).epoch == parse(kept["fencing_token"]).epoch + 1
            assert (await after.release(kept))["status"] == "success"
            os.kill(survivor.pid, signal.SIGKILL)
            assert sorted(await after.held()) == sorted([unowned["lease_id"], later["lease_id"]])


class Recording(MemoryStore):
    """Remembers in which order and how durably what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[tuple[Durability, list[str]]] = []

    def commit(self, changes: Any, durability: Durability) -> None:
        super().commit(changes, durability)
        self.commits.append((durability, [change.table for change in changes]))


async def test_the_epoch_is_durable_before_the_first_grant(tmp_path: Path) -> None:
    store = Recording()
    async with host(two_cards(tmp_path), store) as mainpc:
        await mainpc.granted(1)
    assert store.commits[:2] == [(Durability.FULL, ["lease_fence"]), (Durability.NORMAL, ["leases"])]


async def test_nothing_acknowledged_is_lost_while_the_store_takes_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    async with host(two_cards(tmp_path), store) as mainpc:
        with program() as process:
            kept = await mainpc.granted(3)
            owned = await mainpc.granted(3, owner=owner(process))
            store.failure = StorageUnavailable("the disk is full; free space on it")
            for refused in [
                await mainpc.acquire(1),
                await mainpc.release(kept),
                await mainpc.acquire(1, wait_s=5),
                await mainpc.ask("admit_lease", lease_id="lease-1", model="llm", bytes=GIB),
            ]:
                assert raises(StorageUnavailable, refused)
                assert (refused["retryable"], "the disk is full" in refused["error"]) == (True, True)
        renewed = await mainpc.ask("renew_lease", lease_id=kept["lease_id"], fencing_token=kept["fencing_token"])
        assert renewed["status"] == "success"
        health = await mainpc.ask("ping")
        assert health["status"] == "degraded"
        store.failure = None
        await until(lambda: mainpc.leases._writer.decided["owner-died"] == 1)
        assert await mainpc.held() == [kept["lease_id"]]
        assert await mainpc.decisions(owned["lease_id"]) == ["granted", "owner-died"]
        again = await mainpc.granted(1)
        assert parse(again["fencing_token"]).epoch > parse(kept["fencing_token"]).epoch
        assert (await mainpc.ask("ping"))["status"] == "ok"


class Full(SqliteStore):
    """A file on a disk that is full while `full` is set."""

    full = False

    def commit(self, changes: list[Change], durability: Durability) -> None:  # type: ignore[override]
        if self.full and self._connection is not None:
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
            self._connection.execute(f"PRAGMA max_page_count = {pages}")
            changes = [*changes, Change("ballast", "row", bytes(1_000_000))]
        elif self._connection is not None:
            self._connection.execute("PRAGMA max_page_count = 1000000")
        super().commit(changes, durability)


async def test_a_full_disk_refuses_and_lists_what_was_acknowledged(tmp_path: Path) -> None:
    store = Full(tmp_path / "leases.db", "leases")
    async with host(two_cards(tmp_path), store) as mainpc:
        kept = await mainpc.granted(3)
        store.full = True
        assert raises(StorageUnavailable, await mainpc.acquire(1))
        assert raises(StorageUnavailable, await mainpc.release(kept))
        assert await mainpc.held() == [kept["lease_id"]]
        store.full = False
        await until(lambda: mainpc.leases._writer._epoch_open)
        assert (await mainpc.release(kept))["status"] == "success"


async def test_a_host_starts_on_a_full_disk_and_grants_when_there_is_space(tmp_path: Path) -> None:
    store = Full(tmp_path / "leases.db", "leases")
    store.full = True
    async with host(two_cards(tmp_path), store) as mainpc:
        assert raises(StorageUnavailable, await mainpc.acquire(1))
        (reason,) = (await mainpc.ask("ping"))["reasons"]
        assert reason.startswith("no lease can be granted: ")
        store.full = False
        await until(lambda: mainpc.leases._writer._epoch_open)
        await mainpc.granted(1)


async def test_a_grant_from_the_line_that_fails_to_be_kept_is_no_grant(tmp_path: Path) -> None:
    store = MemoryStore()
    async with host(two_cards(tmp_path), store) as mainpc, peer(mainpc.shell.port) as caller:
        held = await mainpc.granted(20)
        asked = asyncio.create_task(caller.plain("acquire_lease", model="late", bytes=20 * GIB, wait_s=30))
        await until(lambda: len(mainpc.leases._line) == 1)
        start = mainpc.leases._serving._start

        def start_and_fail(seat: Any) -> None:
            start(seat)
            store.failure = StorageUnavailable("the disk is full")

        mainpc.leases._serving._start = start_and_fail  # type: ignore[method-assign]
        await mainpc.release(held)
        assert raises(StorageUnavailable, await asked)
        store.failure = None
        await until(lambda: mainpc.leases._writer._epoch_open)
        assert await mainpc.held() == []


async def test_the_line_and_the_clock_wait_while_the_store_takes_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    async with host(two_cards(tmp_path), store) as mainpc, peer(mainpc.shell.port) as caller:
        held = await mainpc.granted(20, ttl_s=0.3)
        asked = asyncio.create_task(caller.plain("acquire_lease", model="late", bytes=20 * GIB, wait_s=30))
        await until(lambda: len(mainpc.leases._line) == 1)
        store.failure = StorageUnavailable("the disk is full")
        await until(lambda: mainpc.shell.journal.failures > 0)
        mainpc.leases._serving.serve()
        assert len(mainpc.leases._line) == 1
        store.failure = None
        assert (await asked)["bytes"] == 20 * GIB
        assert (await mainpc.decisions(held["lease_id"]))[-1] == "expired"


async def test_a_store_that_refused_is_not_asked_again_at_once(tmp_path: Path) -> None:
    store = MemoryStore()
    async with host(two_cards(tmp_path), store) as mainpc:
        mainpc.leases._writer._retry_at = float("inf")
        mainpc.leases._writer._refused = StorageUnavailable("the disk was full")
        with pytest.raises(StorageUnavailable, match="was full"):
            mainpc.shell.journal.rebuild()
        mainpc.leases._writer._retry_at = 0.0
        mainpc.shell.journal.rebuild()
        assert parse((await mainpc.granted(1))["fencing_token"]).epoch == 2


async def test_another_part_of_the_service_is_rebuilt_too_and_nothing_is_after_the_end(tmp_path: Path) -> None:
    rebuilt: list[str] = []
    shell = Shell(ShellSettings("Supervisor", "mainpc", 0), supervisor.TOPICS, MemoryStore())
    shell.journal.rebuild = lambda: rebuilt.append("processes")
    card_leases = CardLeases(shell, "mainpc", None)
    await card_leases.open()
    shell.journal.rebuild()
    table = card_leases._writer.table
    await card_leases.close()
    shell.journal.rebuild()
    assert (rebuilt, card_leases._writer.table) == (["processes", "processes"], table)
    await shell.close()


@asynccontextmanager
async def process(folder: Path) -> AsyncIterator[Peer]:
    """The host in a process of its own, killed at the end."""
    command = [sys.executable, host_process.__file__, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(common.__file__).parent.parent)}
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    assert child.stdout is not None
    try:
        port = int(await child.stdout.readline())
        async with peer(port) as caller:
            yield caller
    finally:
        child.kill()
        await child.wait()


async def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    with program() as holder:
        async with process(tmp_path) as caller:
            granted = [
                await caller.plain("acquire_lease", model="llm", bytes=GIB, owner=owner(holder)) for _ in range(10)
            ]
            released = await caller.plain(
                "release_lease", lease_id=granted[0]["lease_id"], fencing_token=granted[0]["fencing_token"]
            )
            assert released["status"] == "success"
        async with process(tmp_path) as caller:
            listed = (await caller.plain("list_leases"))["leases"]
            assert [lease["lease_id"] for lease in listed] == [each["lease_id"] for each in granted[1:]]
            later = await caller.plain("acquire_lease", model="llm", bytes=GIB, owner=owner(holder))
            assert parse(later["fencing_token"]).epoch == parse(granted[0]["fencing_token"]).epoch + 1
            os.kill(holder.pid, signal.SIGKILL)
            async with asyncio.timeout(60):
                while (await caller.plain("list_leases"))["leases"]:
                    await asyncio.sleep(0.01)
