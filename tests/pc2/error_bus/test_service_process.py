"""ErrorBus as a process of its own: its door, its size, and kill -9 at seeded moments under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from common.api.error_bus import SERVICE
from common.client.aio import AsyncClient
from common.errors import TandemError
from tests.lab.service_process import ServiceProcess, ask, ended_at_last

SEEDS = range(int(os.environ.get("TANDEM_TEST_KILLS", "4")))
"""Each seed is a life under load that ends by kill -9."""

IDLE_RSS_BYTES = 45 * 2**20
FLAT_BYTES = 24 * 2**20


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServiceProcess]:
    with ended_at_last(ServiceProcess("pc2", "error_bus", SERVICE, "pc2", tmp_path)) as made:
        yield made


def rss(process: ServiceProcess) -> int:
    assert process.child is not None
    return int(psutil.Process(process.child.pid).memory_info().rss)


async def test_an_idle_service_is_small_answers_everywhere_and_stops_when_told(process: ServiceProcess) -> None:
    process.start()
    async with process.client() as client:
        await process.until_ready(client)
        for port in (process.ports[0], process.ports[2]):
            assert (await ask(port, "ping"))["service"] == SERVICE
        if "coverage" not in sys.modules:
            assert rss(process) < IDLE_RSS_BYTES
    assert process.kill(signal.SIGTERM) == 0
    assert (process.home / "pc2" / "error_bus.db").exists()


async def test_a_second_start_says_who_holds_the_store(process: ServiceProcess) -> None:
    process.start()
    async with process.client() as client:
        await process.until_ready(client)
    second = await asyncio.to_thread(process.second_start)
    assert process.child is not None
    assert second.returncode == 1
    assert f"pid {process.child.pid}" in second.stderr


@dataclass
class Sender:
    """One spool: what it told of and what was acknowledged."""

    name: str
    reports: list[dict[str, object]] = field(default_factory=list)
    acknowledged: int = 0

    async def deliver(self, client: AsyncClient, rng: random.Random) -> None:
        """Go on from what was acknowledged until cancelled, sending again what got no answer."""
        while True:
            for _ in range(rng.randrange(1, 40)):
                number = len(self.reports)
                self.reports.append(
                    {"agent": self.name, "error_type": f"E{number % 5}", "message": f"no room for {number} files"}
                )
            fields = {"sender": self.name, "epoch": 1, "first_seq": self.acknowledged + 1}
            told = self.reports[self.acknowledged : self.acknowledged + 200]
            try:
                answer = await client.call(SERVICE, "report_errors", fields | {"reports": told}, timeout_s=5.0)
            except TandemError:
                await asyncio.sleep(0.02)
            else:
                assert answer["seq"] >= self.acknowledged + len(told)
                self.acknowledged = answer["seq"]


async def tell(client: AsyncClient, worker: int, told: set[str]) -> None:
    """Lone reports, each with an id, told again until they are acknowledged."""
    while True:
        report_id = f"{worker}-{len(told)}"
        fields = {"agent": f"lone{worker}", "error_type": "Lone", "message": "m", "report_id": report_id}
        try:
            await client.call(SERVICE, "report_error", fields, timeout_s=5.0)
        except TandemError:
            await asyncio.sleep(0.02)
        else:
            told.add(report_id)


async def test_kill_9_at_any_moment_counts_every_error_once(process: ServiceProcess) -> None:
    senders = [Sender(f"sender{n}") for n in range(3)]
    lone: list[set[str]] = [set(), set()]
    async with process.client() as client:
        process.start()
        await process.until_ready(client)
        for seed in SEEDS:
            rng = random.Random(seed)
            work = [asyncio.create_task(sender.deliver(client, rng)) for sender in senders]
            work += [asyncio.create_task(tell(client, worker, told)) for worker, told in enumerate(lone)]
            await asyncio.sleep(rng.uniform(0.05, 0.6))
            process.kill()
            process.start()
            await process.until_ready(client)
            await asyncio.sleep(0.1)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            for sender in senders:
                await finish(client, sender)
        await check(client, senders, lone)


async def finish(client: AsyncClient, sender: Sender) -> None:
    """What is left of a spool, whatever became of the batch under way."""
    while sender.acknowledged < len(sender.reports):
        fields = {"sender": sender.name, "epoch": 1, "first_seq": sender.acknowledged + 1}
        told = sender.reports[sender.acknowledged : sender.acknowledged + 500]
        answer = await client.call(SERVICE, "report_errors", fields | {"reports": told}, timeout_s=60.0)
        sender.acknowledged = answer["seq"]


async def check(client: AsyncClient, senders: list[Sender], lone: list[set[str]]) -> None:
    """Every report of every sender counts once; of the lone ones each acknowledged, and at most one more of each teller."""
    by_agent: dict[str, int] = {}
    groups = (await client.call(SERVICE, "list_error_groups"))["groups"]
    assert len(groups) == 6
    for group in groups:
        detail = await client.call(SERVICE, "get_error_group", {"group_id": group["group_id"]})
        for agent, count in detail["by_agent"].items():
            by_agent[agent] = by_agent.get(agent, 0) + count
    for sender in senders:
        assert by_agent[sender.name] == len(sender.reports) > 0
    for worker, told in enumerate(lone):
        assert len(told) <= by_agent[f"lone{worker}"] <= len(told) + 1


async def test_a_storm_of_errors_that_all_differ_leaves_memory_flat(process: ServiceProcess) -> None:
    """Ten thousand groups fill the book; as many again must find their room in it."""
    process.start()
    async with process.client() as client:
        await process.until_ready(client)
        seq, sizes = 1, []
        for _ in range(3):
            for _ in range(25):
                reports = [
                    {"agent": "noisy", "error_type": f"E{seq + n}", "message": "m", "stack": f"s{seq}"}
                    for n in range(500)
                ]
                fields = {"sender": "noisy", "epoch": 1, "first_seq": seq, "reports": reports}
                seq = (await client.call(SERVICE, "report_errors", fields, timeout_s=60.0))["seq"] + 1
            sizes.append(rss(process))
        listed = await client.call(SERVICE, "list_error_groups", {"limit": 1})
        assert (listed["total"], seq) == (10_000, 37_501)
        assert sizes[2] - sizes[1] < FLAT_BYTES
