"""A whole fabric whose services keep their records on a real Redis server, and lose none of them to kill -9."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.fabric import Fabric, until
from tests.lab.redis_server import RedisServer


@pytest.fixture
def redis(needs: Callable[[str], str]) -> Iterator[RedisServer]:
    """A server of this test's own; its folder is short, since a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tandem-redis-") as folder:
        server = RedisServer(needs("redis-server"), Path(folder) / "r").start()
        yield server
        server.stop()


def test_services_on_redis_lose_nothing_to_kill_9(tmp_path: Path, redis: RedisServer) -> None:
    fabric = Fabric(tmp_path, extra={"TANDEM_STORE": redis.url})
    fabric.home.mkdir()
    fabric.start()
    try:
        agent = {"agent_name": "kept", "host": "127.0.0.1", "port": 5001, "capabilities": ["old"]}
        registered = fabric.ask("core", {"action": "register_agent", **agent})
        assert registered is not None
        assert registered["status"] == "success"
        asked = {"action": "acquire_lease", "model": "m", "bytes": 2**20, "idempotency_key": "k", "ttl_s": 600}
        lease = fabric.ask("rm", asked)
        assert lease is not None
        for host, name in (("mainpc", "core_orchestrator"), ("pc2", "resource_manager")):
            victim = fabric.processes(host)[name]["pid"]
            assert victim > 1
            os.kill(victim, signal.SIGKILL)
            until(
                lambda host=host, name=name, victim=victim: fabric.processes(host)[name]["pid"] not in (0, victim),
                30,
                f"a successor of {name}",
            )
            until(fabric.is_ready, 30, "a ready fabric")
        listed = fabric.ask("core", {"action": "list_agents"})
        assert listed is not None
        assert [each["agent_name"] for each in listed["agents"]] == ["kept"]
        assert fabric.ask("rm", asked)["lease_id"] == lease["lease_id"]  # type: ignore[index]
        assert not list(fabric.home.glob("*/core_orchestrator.db*"))
    finally:
        fabric.stop()
