"""ResourceManager in a process of its own, killed at random, seeded moments under load."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from pathlib import Path

from common.api import leases as api
from common.api.leases import AcquireLease, LeaseGranted
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.client.settings import ClientSettings
from common.errors import TandemError
from common.resilience.budget import RetrySettings
from tests.lab.service_process import ServiceProcess, ended_at_last
from tests.pc2.resource_manager.fabric import RM, Host, directory, two_hosts, until

KILLS = 10
SEED = 11
CALLERS = 6
MIB = 2**20


def manager(folder: Path, hosts: dict[str, Host]) -> tuple[ServiceProcess, Directory]:
    """ResourceManager's own process, and where it and the hosts are."""
    process = ServiceProcess("pc2", "resource_manager", RM, "pc2", folder / "home")
    places = directory(list(hosts.values()), process.place)
    process.more["TANDEM_SERVICES"] = places.render()
    return process, places


class Caller:
    """Takes leases and gives them back, each order repeated under its key until it is acknowledged."""

    def __init__(self, client: AsyncClient, name: int, seed: int) -> None:
        self._client = client
        self._name = name
        self._rng = random.Random(seed)
        self.held: dict[str, LeaseGranted] = {}
        self.returned: dict[str, LeaseGranted] = {}
        self.changed_its_mind: list[str] = []

    async def work(self, over: asyncio.Event) -> None:
        """Until it is over; what was begun is ended."""
        number = 0
        while not over.is_set():
            number += 1
            order = f"order-{self._name}-{number}"
            granted = await self._insist(order)
            self.held[order] = granted
            if len(self.held) > 2:
                await self._return(*self._rng.choice(list(self.held.items())))

    async def _insist(self, order: str) -> LeaseGranted:
        size = self._rng.randrange(64, 1024) * MIB
        asked = AcquireLease(model=order, bytes=size, idempotency_key=order, wait_s=2.0, ttl_s=3_600)
        seen: set[str] = set()
        async with asyncio.timeout(60):
            while True:
                try:
                    granted = await self._client.call(RM, api.ACQUIRE_LEASE, asked, timeout_s=5.0, idempotent=False)
                except TandemError:
                    await asyncio.sleep(0.02)
                    continue
                seen.add(granted.lease_id)
                if self._rng.random() < 0.5 or len(seen) > 1:
                    break  # now and then it asks once more: it must hear of the same lease
        if len(seen) > 1:
            self.changed_its_mind.append(order)
        return granted

    async def _return(self, order: str, granted: LeaseGranted) -> None:
        held = api.ReleaseLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
        async with asyncio.timeout(60):
            while True:
                try:
                    await self._client.call(RM, api.RELEASE_LEASE, held, timeout_s=5.0)
                    break
                except TandemError:
                    await asyncio.sleep(0.02)
        del self.held[order]
        self.returned[order] = granted


async def test_killed_under_load_it_loses_nothing_acknowledged_and_grants_nothing_twice(tmp_path: Path) -> None:
    rng, over = random.Random(SEED), asyncio.Event()
    async with two_hosts(tmp_path) as hosts:
        process, places = manager(tmp_path, hosts)
        client = open_async_client(ClientSettings(retry=RetrySettings(attempts=1)), places)
        callers = [Caller(client, name, rng.getrandbits(32)) for name in range(CALLERS)]
        with ended_at_last(process):
            process.start()
            working = [asyncio.create_task(caller.work(over)) for caller in callers]
            for _ in range(KILLS):
                await process.until_ready(client)
                await asyncio.sleep(rng.uniform(0.0, 0.25))
                process.kill()
                process.start()
            await process.until_ready(client)
            over.set()
            await asyncio.gather(*working)

            held = {granted.lease_id for caller in callers for granted in caller.held.values()}
            returned = {granted.lease_id for caller in callers for granted in caller.returned.values()}
            await until(lambda: {lease.lease_id for host in hosts.values() for lease in host.live} == held)
            grants = Counter(lease.model for host in hosts.values() for lease in host.granted)
            assert len(held | returned) > 2 * CALLERS
            assert set(grants.values()) == {1}, "some order was granted twice"
            assert [caller.changed_its_mind for caller in callers] == [[]] * CALLERS
            await client.close()
            assert await asyncio.to_thread(process.kill, signal.SIGTERM) == 0


async def test_what_cannot_start_says_why_and_exits_with_one(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        process, _ = manager(tmp_path, hosts)
        with ended_at_last(process):
            process.start()
            async with process.client() as client:
                await process.until_ready(client)
            second = await asyncio.to_thread(process.second_start)
            assert second.returncode == 1
            assert "ResourceManager cannot start" in second.stderr
            assert "is held by" in second.stderr
            assert await asyncio.to_thread(process.kill, signal.SIGTERM) == 0
