"""A full disk under a whole fabric: nothing is acknowledged that is not kept, and all is well when there is space again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.fabric import Fabric, until
from tests.lab.small_disk import fill, small_disk
from tests.system.conftest import ECHO


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    with small_disk(tmp_path / "disk", "24m") as mounted:
        yield mounted


def register(fabric: Fabric, name: str) -> dict[str, Any]:
    agent = {
        "agent_name": name,
        "host": "127.0.0.1",
        "port": 5000,
        "capabilities": ["old"],
        "metadata": {"x": "y" * 4000},
    }
    answer = fabric.ask("core", {"action": "register_agent", **agent})
    assert answer is not None
    return answer


def acquire(fabric: Fabric, model: str) -> dict[str, Any]:
    asked = {"action": "acquire_lease", "model": model, "bytes": 2**20, "ttl_s": 3600}
    answer = fabric.ask("mainpc", asked)
    assert answer is not None
    return answer


def test_a_full_disk_is_said_and_survived(disk: Path) -> None:
    fabric = Fabric(disk, {"mainpc": [ECHO]})
    fabric.home.mkdir(parents=True)
    kept: list[str] = []
    fabric.start()
    try:
        assert register(fabric, "before")["status"] == "success"
        lease = acquire(fabric, "before")
        assert lease["status"] == "success"
        filler = fill(disk)
        answers = {name: register(fabric, name) for name in (f"full-{number}" for number in range(200))}
        kept = [name for name, answer in answers.items() if answer["status"] == "success"]
        refused = [answer for answer in answers.values() if answer["status"] == "error"]
        assert refused
        assert {answer["code"] for answer in refused} == {"storage_unavailable"}
        assert all(answer["retryable"] for answer in refused)
        leases = [acquire(fabric, f"full-{number}") for number in range(200)]
        assert {answer.get("code", "kept") for answer in leases} <= {"storage_unavailable", "kept"}
        health = fabric.ask("core", {"action": "ping"})
        assert health is not None
        assert health["status"] == "degraded"
        filler.unlink()
        until(lambda: register(fabric, "after")["status"] == "success", 10, "a registration once there is space")
        until(lambda: acquire(fabric, "after")["status"] == "success", 10, "a lease once there is space")
        listed = fabric.ask("core", {"action": "list_agents"})
        assert listed is not None
        names = {agent["agent_name"] for agent in listed["agents"]}
        assert {"before", "after", *kept} <= names
        assert not {name for name, answer in answers.items() if answer["status"] == "error"} & names
        held = fabric.ask("mainpc", {"action": "list_leases"})
        assert held is not None
        tokens = {one["lease_id"] for one in held["leases"]}
        assert {lease["lease_id"], *(one["lease_id"] for one in leases if one["status"] == "success")} <= tokens
    finally:
        fabric.stop()
