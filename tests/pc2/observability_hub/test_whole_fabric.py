"""The hub among real processes that real signals stop and kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.fabric import ROOT, until
from tests.pc2.observability_hub.fabric import HubFabric, all_are, running, stopped


def echo(name: str) -> dict[str, Any]:
    command = ["{python}", "-m", "tests.lab.echo_agent"]
    return {"name": name, "command": command, "cwd": str(ROOT), "capabilities": ["echo"], "restart": {"when": "always"}}


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFabric]:
    folder: Path = tmp_path_factory.mktemp("hub")
    with running(folder, {"mainpc": [echo("echo")]}) as made:
        yield made


@pytest.fixture(autouse=True)
def all_well(fabric: HubFabric) -> None:
    until(lambda: all_are(fabric.health(), lambda verdict: verdict == "healthy"), 60.0, "health everywhere")


BEHIND_MAINPC = {("mainpc", "unreachable because mainpc is unreachable")}


def told(fabric: HubFabric) -> tuple[str, set[tuple[str, str]], set[str]]:
    """The link's verdict, the roots and reasons of mainpc's processes, and the verdicts of pc2's."""
    health = fabric.health()
    processes = [one for part in ("services", "agents") for one in health.get(part, ())]
    behind = {(one["because"], one["reason"]) for one in processes if one["host"] == "mainpc"}
    return health["links"][0]["verdict"], behind, {one["verdict"] for one in processes if one["host"] == "pc2"}


def test_a_killed_agent_is_a_verdict_with_its_reason_and_healthy_when_it_is_back(fabric: HubFabric) -> None:
    os.kill(fabric.pid("mainpc/echo"), signal.SIGKILL)
    found = fabric.until_verdict("mainpc/echo", "unhealthy")
    assert found["reason"] == "died: killed by signal 9"
    found = fabric.until_verdict("mainpc/echo", "healthy")
    assert found["restarts"] >= 1


def test_a_stopped_agent_is_suspected_then_unreachable_and_nobody_else_is(fabric: HubFabric) -> None:
    with stopped([fabric.pid("mainpc/echo")]):
        until(lambda: fabric.verdict("mainpc/echo") != "healthy", 10.0, "suspicion")
        found = fabric.until_verdict("mainpc/echo", "unreachable")
        assert "no answer within" in found["reason"]
        assert not found["because"]
        fabric.until_verdict("mainpc", "healthy")
    fabric.until_verdict("mainpc/echo", "healthy", 60.0)


def test_a_host_that_stands_still_is_one_root_and_its_processes_are_behind_it(fabric: HubFabric) -> None:
    pids = [fabric.supervisor_pid("mainpc"), *(one["pid"] for one in fabric.processes("mainpc").values())]
    with stopped(pids):
        fabric.until_verdict("mainpc", "unreachable")
        fabric.until_verdict("mainpc/echo", "unreachable")
        until(lambda: told(fabric) == ("unreachable", BEHIND_MAINPC, {"healthy"}), 60.0, "one root, and no other")


def test_a_killed_hub_comes_back_and_announces_nothing_that_was_known(fabric: HubFabric) -> None:
    before = {one["host"]: one["since"] for one in fabric.health()["hosts"]}
    pid = fabric.pid("pc2/observability_hub")
    os.kill(pid, signal.SIGKILL)
    until(lambda: fabric.pid("pc2/observability_hub") not in (0, pid), 20.0, "another life")
    until(lambda: all_are(fabric.health(), lambda verdict: verdict == "healthy"), 60.0, "health everywhere")
    assert {one["host"]: one["since"] for one in fabric.health()["hosts"]} == before


def test_history_written_by_one_life_is_read_by_the_next(fabric: HubFabric) -> None:
    point = {"name": "kept", "value": 5.0}
    batch = {"action": "push_metrics", "agent": "a", "points": [point], "sender": "a@x", "epoch": 1, "seq": 1}
    assert (fabric.ask("hub", batch) or {})["taken"] == 1
    pid = fabric.pid("pc2/observability_hub")
    os.kill(pid, signal.SIGTERM)
    until(lambda: fabric.pid("pc2/observability_hub") not in (0, pid), 20.0, "another life")
    until(lambda: fabric.ask("hub", {"action": "ping"}, 1_000), 30.0, "the hub again")
    found = until(
        lambda: (fabric.ask("hub", {"action": "query_metrics", "name": "kept"}, 2_000) or {}).get("series"), 30.0, "it"
    )
    assert [one["value"] for one in found[0]["points"]] == [5.0]
    assert (fabric.ask("hub", batch) or {})["repeated"] is True
