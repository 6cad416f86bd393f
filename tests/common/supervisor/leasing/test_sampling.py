from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from common.gpu import cgroups
from common.gpu.process_identity import identify, this_process
from common.supervisor.leasing.sampling import families
from common.vram.cards import CardSample, ProcessId, ProcessUse

CONTAINER = "/system.slice/docker-4f2d9c.scope"


def card(*pids: int) -> CardSample:
    return CardSample(
        host="h",
        index=0,
        uuid="GPU-a",
        name="card",
        total_bytes=10,
        free_bytes=10,
        used_bytes=0,
        processes=tuple(ProcessUse(pid, 1, "x", 1) for pid in pids),
    )


@pytest.fixture
def stranger() -> Iterator[ProcessId]:
    """A process that descends from nobody here but this test, and leads a session of its own."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    found = identify(process.pid)
    assert found is not None
    yield found
    process.kill()
    process.wait()


@pytest.fixture
def owner() -> Iterator[ProcessId]:
    """Whoever asked for the container: a process that is no ancestor of anybody in it."""
    process = subprocess.Popen(["sleep", "1000"])
    found = identify(process.pid)
    assert found is not None
    yield found
    process.kill()
    process.wait()


def live_in(monkeypatch: pytest.MonkeyPatch, homes: dict[int, str]) -> None:
    monkeypatch.setattr(cgroups, "paths", lambda pid: (homes[pid],) if pid in homes else ())


def test_a_containers_process_is_its_owners_though_it_descends_from_a_daemon(
    stranger: ProcessId, owner: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(monkeypatch, {stranger.pid: f"{CONTAINER}/init"})
    samples, owners = [card(stranger.pid, owner.pid)], frozenset({owner})
    assert families(samples, owners) == {}
    assert families(samples, owners, {CONTAINER: owner}) == {stranger.pid: owner.pid}
    assert families(samples, owners, {"/system.slice/other.scope": owner}) == {}
    assert families(samples, frozenset(), {CONTAINER: owner}) == {}


def test_an_owner_in_the_tree_comes_before_the_cgroup(
    stranger: ProcessId, owner: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(monkeypatch, {stranger.pid: CONTAINER})
    both = frozenset({owner, this_process()})
    assert families([card(stranger.pid)], both, {CONTAINER: owner}) == {stranger.pid: os.getpid()}


def test_a_cgroup_with_the_supervisor_in_it_gives_nobody_a_stranger(
    stranger: ProcessId, owner: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(monkeypatch, {stranger.pid: "/user.slice/game", os.getpid(): "/user.slice/tandem"})
    assert families([card(stranger.pid)], frozenset({owner}), {"/user.slice": owner}) == {}
