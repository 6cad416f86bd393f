"""SecurityGateway in a process of its own, killed at random, seeded moments under load."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from common.api.security_gateway import SERVICE
from common.client.aio import AsyncClient
from common.errors import Conflict, TandemError, Unavailable
from tests.lab.service_process import ServiceProcess, ended_at_last

KILLS = 6
SEED = 5
CALLERS = 3


def gateway(home: Path) -> ServiceProcess:
    """The gateway's own process."""
    return ServiceProcess("pc2", "security_gateway", SERVICE, "pc2", home)


class Load:
    """Makes identities, gets tokens and revokes them; remembers what was acknowledged."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.identities: set[str] = set()
        self.gone: set[str] = set()
        self.revoked: list[str] = []
        self.issued: list[str] = []

    async def run(self, caller: int) -> None:
        number = 0
        while True:
            number += 1
            try:
                await self._once(f"bob-{caller}-{number}")
            except TandemError:
                await asyncio.sleep(0.02)

    async def _once(self, name: str) -> None:
        created = await self._call("create_identity", name=name, kind="agent", scopes=["use"])
        self.identities.add(name)
        for ends in (True, False):
            issued = await self._call("issue_token", name=name, secret=created["api_key"])
            if ends:
                await self._call("revoke_token", token=issued["token"])
                self.revoked.append(issued["token"])
        self.issued.append(issued["token"])
        if name.endswith("0"):
            self.gone.add(name)  # from now on it may be gone, acknowledged or not
            await self._call("revoke_identity", name=name)
            self.revoked.append(issued["token"])

    async def _call(self, verb: str, **fields: object) -> dict[str, str]:
        return await self._client.call(SERVICE, verb, fields, timeout_s=5.0)


async def answered(client: AsyncClient, verb: str) -> dict[str, Any]:
    """The answer of a life that may still be starting."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.call(SERVICE, verb, {}, timeout_s=60.0)
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_nothing_acknowledged_is_lost_to_kill_nine(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with ended_at_last(gateway(tmp_path)) as process:
        process.start()
        async with process.client() as client:
            await killed_under_load(process, client, rng)
        assert process.kill(signal.SIGTERM) == 0


async def killed_under_load(process: ServiceProcess, client: AsyncClient, rng: random.Random) -> None:
    """Kills it again and again; what was acknowledged is there in the end, and nothing else."""
    load = Load(client)
    callers = [asyncio.create_task(load.run(caller)) for caller in range(CALLERS)]
    try:
        for _ in range(KILLS):
            acknowledged = len(load.revoked)
            async with asyncio.timeout(60):
                while len(load.revoked) < acknowledged + 5:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(rng.random() * 0.1)
            process.kill()
            process.start()
    finally:
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    listed = await answered(client, "list_identities")
    known = {each["name"] for each in listed["identities"]}
    assert load.identities - load.gone <= known
    assert "operator" in known
    for token in load.revoked:
        assert (await client.call(SERVICE, "verify_token", {"token": token}))["reason"] == "revoked"
    good = set(load.issued) - set(load.revoked)
    assert good
    verified = [await client.call(SERVICE, "verify_token", {"token": token}) for token in good]
    assert all(each["valid"] for each in verified if each["name"] not in load.gone and each["reason"] != "revoked")
    with pytest.raises(Conflict):
        await client.call(
            SERVICE, "create_identity", {"name": "operator", "kind": "operator", "scopes": []}, idempotent=False
        )


def test_a_home_that_others_may_read_the_keys_of_is_refused_with_its_mend(tmp_path: Path) -> None:
    keys = tmp_path / "pc2" / "keys" / "security_gateway.json"
    keys.parent.mkdir(parents=True)
    keys.write_text("{}")
    keys.chmod(0o644)
    ended = gateway(tmp_path).second_start()
    assert ended.returncode == 1
    assert f"SecurityGateway cannot start: {keys} may be read by others" in ended.stderr
    assert "chmod 600" in ended.stderr
