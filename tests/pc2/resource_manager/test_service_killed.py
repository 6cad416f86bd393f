"""ResourceManager in a process of its own, killed at random, seeded moments under load."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from pathlib import Path

from common.api import leases as api
from common.api.leases import AcquireLease, LeaseGranted
from common.client.aio import AsyncClient
from common.client.opening import open_async_client
from common.client.settings import ClientSettings
from common.errors import TandemError
from common.resilience.budget import RetrySettings
from tests.lab.fabric import free_ports
from tests.pc2.resource_manager.fabric import RM, Host, directory, two_hosts, until

KILLS = 10
SEED = 11
CALLERS = 6
MIB = 2**20


class Process:
    """ResourceManager's own process, on the same ports and store in every life."""

    def __init__(self, folder: Path, hosts: dict[str, Host]) -> None:
        self.ports = free_ports(3)
        own = f"{RM}={self.ports[0]}:{self.ports[1]}@127.0.0.1"
        self.places = directory(list(hosts.values()), own)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
        self._environ = kept | {
            "TANDEM_HOME": str(folder / "home"),
            "TANDEM_HOST": "pc2",
            "TANDEM_PORT": str(self.ports[0]),
            "TANDEM_EVENTS_PORT": str(self.ports[1]),
            "TANDEM_HEALTH_PORT": str(self.ports[2]),
            "TANDEM_SERVICES": self.places.render(),
        }
        self._process: asyncio.subprocess.Process

    async def start(self) -> None:
        """A new life."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pc2", "resource_manager", env=self._environ, cwd=Path(__file__).parents[3]
        )

    async def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """TERM, and its exit status."""
        self._process.terminate()
        async with asyncio.timeout(60):
            return await self._process.wait()


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


async def serving(client: AsyncClient) -> None:
    """Wait until the new life answers."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.call(RM, "ping", timeout_s=0.5)
                return
            except TandemError:
                await asyncio.sleep(0.02)


async def test_killed_under_load_it_loses_nothing_acknowledged_and_grants_nothing_twice(tmp_path: Path) -> None:
    rng, over = random.Random(SEED), asyncio.Event()
    async with two_hosts(tmp_path) as hosts:
        process = Process(tmp_path, hosts)
        client = open_async_client(ClientSettings(retry=RetrySettings(attempts=1)), process.places)
        callers = [Caller(client, name, rng.getrandbits(32)) for name in range(CALLERS)]
        await process.start()
        working = [asyncio.create_task(caller.work(over)) for caller in callers]
        for _ in range(KILLS):
            await serving(client)
            await asyncio.sleep(rng.uniform(0.0, 0.25))
            await process.kill()
            await process.start()
        await serving(client)
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
        assert await process.stop() == 0


async def test_what_cannot_start_says_why_and_exits_with_one(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as hosts:
        process = Process(tmp_path, hosts)
        await process.start()
        client = open_async_client(None, process.places)
        await serving(client)
        await client.close()
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pc2", "resource_manager"),
            env=process._environ,
            cwd=Path(__file__).parents[3],
            stderr=asyncio.subprocess.PIPE,
        )
        _, told = await asyncio.wait_for(second.communicate(), 60)
        assert second.returncode == 1
        assert b"ResourceManager cannot start" in told
        assert b"is held by" in told
        assert await process.stop() == 0
