from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from common.gpu import cgroups
from common.gpu.process_identity import identify, this_process
from common.supervisor.leasing.families import Families, Member, told_apart
from common.vram.cards import UNKNOWN_START, CardSample, ProcessId, ProcessUse

CONTAINER = "/system.slice/docker-4f2d9c.scope"


def families(*asked: Any) -> dict[int, int]:
    return told_apart(*asked).tree


def card(*pids: int, start_time: int = 1) -> CardSample:
    return CardSample(
        host="h",
        index=0,
        uuid="GPU-a",
        name="card",
        total_bytes=10,
        free_bytes=10,
        used_bytes=0,
        processes=tuple(ProcessUse(pid, start_time, "x", 1) for pid in pids),
    )


def asleep(apart: bool = False) -> Iterator[ProcessId]:
    """A process that does nothing, until the test is over; `apart`: it leads a session of its own."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=apart)
    found = identify(process.pid)
    assert found is not None
    yield found
    process.kill()
    process.wait()


@pytest.fixture
def stranger() -> Iterator[ProcessId]:
    """A process that descends from nobody here but this test, and leads a session of its own."""
    yield from asleep(apart=True)


@pytest.fixture
def owner() -> Iterator[ProcessId]:
    """Whoever asked for the container: a process that is no ancestor of anybody in it."""
    yield from asleep()


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


@pytest.fixture
def child() -> Iterator[ProcessId]:
    """A child of this test, and in its session."""
    yield from asleep()


@pytest.fixture
def grandchild() -> Iterator[tuple[ProcessId, ProcessId]]:
    """A process and its child; ended together, for they are a session."""
    script = "sleep 1000 & echo $!; wait"
    process = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    parent, found = identify(process.pid), identify(int(process.stdout.readline()))
    assert parent is not None
    assert found is not None
    yield parent, found
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_an_owner_in_the_tree_comes_before_the_cgroup(
    grandchild: tuple[ProcessId, ProcessId], owner: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = grandchild
    live_in(monkeypatch, {child.pid: CONTAINER})
    both = frozenset({owner, parent})
    assert families([card(child.pid)], both, {CONTAINER: owner}) == {child.pid: parent.pid}


def test_what_runs_on_the_host_is_not_its_supervisors_though_all_of_it_descends_from_it(child: ProcessId) -> None:
    assert families([card(child.pid)], frozenset({this_process()})) == {}


def test_only_the_families_of_owners_are_told_apart() -> None:
    assert told_apart([], frozenset({ProcessId(1, 1)})) == Families(frozenset({ProcessId(1, 1)}))


def test_who_was_an_owners_stays_so_though_it_hangs_on_nobody_any_more(stranger: ProcessId, owner: ProcessId) -> None:
    here, owners = [card(stranger.pid, start_time=stranger.start_time)], frozenset({owner})
    before = {stranger.pid: Member(stranger.start_time, owner)}
    seen = told_apart(here, owners, {}, before)
    assert (seen.tree, seen.members) == ({stranger.pid: owner.pid}, before)
    assert families(here, owners, {}, {stranger.pid: Member(stranger.start_time + 1, owner)}) == {}, (
        "another one has its pid"
    )
    assert families(here, frozenset({this_process()}), {}, before) == {}, "its owner leases nothing any more"


def test_who_was_in_an_owners_cgroup_stays_so_while_it_is_the_owners(stranger: ProcessId, owner: ProcessId) -> None:
    here, owners = [card(stranger.pid, start_time=stranger.start_time)], frozenset({owner})
    before = {stranger.pid: Member(stranger.start_time, owner, contained=True)}
    assert families(here, owners, {CONTAINER: owner}, before) == {stranger.pid: owner.pid}
    assert families(here, owners, {}, before) == {}, "its owner says that it runs no container any more"


def test_who_ends_while_the_card_is_looked_at_is_no_stranger(owner: ProcessId) -> None:
    ended, owners = ProcessId(2**22 + 1, 7), frozenset({owner})
    seen = told_apart([card(ended.pid, start_time=7)], owners)
    assert (seen.tree, seen.gone) == ({}, frozenset({ended.pid}))
    before = {ended.pid: Member(7, owner)}
    for start_time in (7, UNKNOWN_START):
        seen = told_apart([card(ended.pid, start_time=start_time)], owners, {}, before)
        assert (seen.members, seen.gone) == (before, frozenset())
    hidden = told_apart([card(ended.pid, start_time=UNKNOWN_START)], owners)
    assert (hidden.tree, hidden.gone) == ({}, frozenset()), "one that never shows in /proc may be in a container"


def test_families_are_told_apart_anew_for_whoever_came_meanwhile(owner: ProcessId, stranger: ProcessId) -> None:
    known = told_apart([], frozenset({owner}), {CONTAINER: owner})
    assert known.knew(frozenset({owner}), {})
    assert not known.knew(frozenset({owner, stranger}), {})
    assert not known.knew(frozenset({owner}), {CONTAINER: stranger})


def test_a_cgroup_with_the_supervisor_in_it_gives_nobody_a_stranger(
    stranger: ProcessId, owner: ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_in(monkeypatch, {stranger.pid: "/user.slice/game", os.getpid(): "/user.slice/tandem"})
    assert families([card(stranger.pid)], frozenset({owner}), {"/user.slice": owner}) == {}
