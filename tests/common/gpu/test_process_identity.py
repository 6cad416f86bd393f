from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from common.errors import Unavailable
from common.gpu import process_identity
from common.gpu.process_identity import (
    ExitWatch,
    family,
    identify,
    is_alive,
    lineage,
    name,
    start_time,
    this_process,
    visible_pids,
    watch_exit,
)
from common.vram.cards import ProcessId

NOBODY = 2**22 + 1
"""Above the kernel's highest pid (PID_MAX_LIMIT)."""

Sleeper = Callable[[], tuple["subprocess.Popen[str]", ProcessId]]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "proc"
    folder.mkdir()
    monkeypatch.setattr(process_identity, "_PROC", folder)
    return folder


def put(proc: Path, pid: int, stat: str = "", **files: str) -> None:
    (proc / str(pid)).mkdir()
    for file, content in ({"stat": stat} | files).items():
        if content:
            (proc / str(pid) / file).write_text(content)


def stat_line(pid: int, comm: str, state: str, threads: int, started: int) -> str:
    return f"{pid} ({comm}) {state} 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 {started} 0 0\n"


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_a_process_keeps_its_start_time_and_is_alive_by_it(sleeper: Sleeper) -> None:
    _, pinned = sleeper()
    assert start_time(pinned.pid) == pinned.start_time > 0
    assert is_alive(*pinned)


def test_another_process_with_the_same_pid_does_not_count(sleeper: Sleeper) -> None:
    _, pinned = sleeper()
    assert not is_alive(pinned.pid, pinned.start_time - 1)


def test_a_zombie_is_not_alive(sleeper: Sleeper) -> None:
    process, pinned = sleeper()
    end(process)
    assert start_time(pinned.pid) is None
    assert not is_alive(*pinned)
    assert lineage(pinned.pid) == ()
    assert family(pinned) == frozenset()


def test_nobody_has_neither_start_time_nor_name_nor_lineage() -> None:
    assert start_time(NOBODY) is None
    assert identify(NOBODY) is None
    assert name(NOBODY) == ""
    assert lineage(NOBODY) == ()


def test_a_leader_that_left_its_threads_running_is_alive(proc: Path) -> None:
    put(proc, 7, stat_line(7, "trainer", "Z", 3, 900))
    put(proc, 8, stat_line(8, "trainer", "Z", 1, 901))
    assert start_time(7) == 900
    assert start_time(8) is None


def test_a_name_with_blanks_and_parentheses_misleads_nobody(proc: Path) -> None:
    put(proc, 9, stat_line(9, "x) Z (y", "S", 1, 77))
    assert start_time(9) == 77


def test_this_process_knows_itself_unless_proc_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_process().pid == os.getpid()
    monkeypatch.setattr(process_identity, "_PROC", tmp_path)
    with pytest.raises(Unavailable, match="/proc is not mounted"):
        this_process()


def test_a_name_is_shown_in_full_where_the_kernel_cut_it(proc: Path) -> None:
    put(proc, 1, comm="llama\n", cmdline="/opt/llama\0-m\0")
    put(proc, 2, comm="llama-server-wi\n", cmdline="/opt/llama-server-with-cuda\0-m\0")
    put(proc, 3, comm="a-thread-rename\n", cmdline="/usr/bin/python3\0x.py\0")
    put(proc, 4, comm="kernel-thread-x\n")
    assert [name(pid) for pid in (1, 2, 3, 4)] == [
        "llama",
        "llama-server-with-cuda",
        "a-thread-rename",
        "kernel-thread-x",
    ]


def test_a_grandchild_descends_from_its_child_and_root(start: Start) -> None:
    root = start("sh", "-c", "sh -c 'sleep 1000 & echo $$ $!; wait' & wait")
    assert root.stdout is not None
    child, grandchild = map(int, root.stdout.readline().split())
    line = [process.pid for process in lineage(grandchild)]
    assert line[:4] == [grandchild, child, root.pid, os.getpid()]
    pinned = identify(root.pid)
    assert pinned is not None
    assert {process.pid for process in family(pinned)} == {root.pid, child, grandchild}


def test_a_child_in_a_session_of_its_own_is_still_family(start: Start) -> None:
    root = start("sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait")
    assert root.stdout is not None
    child = identify(int(root.stdout.readline()))
    pinned = identify(root.pid)
    assert pinned is not None
    assert child is not None
    members = family(pinned)
    os.kill(child.pid, signal.SIGKILL)
    assert child in members


def test_a_twice_forked_child_still_belongs_to_its_sessions_leader(start: Start) -> None:
    leader = start("sh", "-c", "(sleep 1000 & echo $!); exec sleep 1000")
    assert leader.stdout is not None
    orphan = int(leader.stdout.readline())
    pinned = identify(leader.pid)
    assert pinned is not None
    assert pinned in lineage(orphan)
    assert identify(orphan) in family(pinned)


def test_a_session_whose_leader_ended_names_no_leader(start: Start) -> None:
    leader = start("sh", "-c", "sleep 1000 & echo $!")
    assert leader.stdout is not None
    orphan = int(leader.stdout.readline())
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert leader.pid not in {process.pid for process in lineage(orphan)}


def test_an_ancestor_that_ends_meanwhile_closes_the_lineage(proc: Path) -> None:
    put(proc, 9, "9 (x) S 8 9 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0\n")
    assert lineage(9) == (ProcessId(9, 77),)


def test_a_containers_pid_is_mapped_by_its_nspid_line(proc: Path) -> None:
    put(proc, 100, status="Name:\tserver\nNSpid:\t100\t7\n")
    put(proc, 101, status="Name:\tother\nNSpid:\t101\n")
    put(proc, 102)
    put(proc, 104, status="NSpid:\t104\t8\n")
    put(proc, 103, status="Name:\told kernel\n")
    assert visible_pids({100, 7, 55}) == {100: 100, 7: 100}


def test_a_pid_that_two_containers_use_is_mapped_to_neither(proc: Path) -> None:
    put(proc, 100, status="NSpid:\t100\t7\n")
    put(proc, 200, status="NSpid:\t200\t7\n")
    assert visible_pids({7}) == {}


def run_watch(
    factory: Callable[[], asyncio.AbstractEventLoop], act: Callable[[Callable[[], None]], tuple[ExitWatch, float]]
) -> int:
    """Watches as `act` does, waits at most so long for the call, and returns how many calls came."""
    calls = 0

    async def body() -> None:
        ended = asyncio.Event()

        def on_exit() -> None:
            nonlocal calls
            calls += 1
            ended.set()

        watch, limit = act(on_exit)
        assert calls == 0
        try:
            await asyncio.wait_for(ended.wait(), limit)
        except TimeoutError:
            pass
        watch.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())
    return calls


loops = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@loops
def test_the_end_of_a_watched_process_is_told_once(
    factory: Callable[[], asyncio.AbstractEventLoop], sleeper: Sleeper
) -> None:
    process, pinned = sleeper()

    def act(callback: Callable[[], None]) -> tuple[ExitWatch, float]:
        watch = watch_exit(*pinned, asyncio.get_running_loop(), callback)
        process.kill()
        return watch, 10

    assert run_watch(factory, act) == 1


@loops
@pytest.mark.parametrize("how", ["gone", "zombie", "replaced"])
def test_a_process_that_already_ended_is_told_in_the_next_turn(
    factory: Callable[[], asyncio.AbstractEventLoop], how: str, sleeper: Sleeper
) -> None:
    process, pinned = sleeper()
    if how == "zombie":
        end(process)
    watched = {"gone": ProcessId(NOBODY - 2, 5), "zombie": pinned, "replaced": ProcessId(pinned.pid, 5)}[how]
    assert run_watch(factory, lambda call: (watch_exit(*watched, asyncio.get_running_loop(), call), 10)) == 1


def test_a_closed_watch_tells_nothing(sleeper: Sleeper) -> None:
    process, pinned = sleeper()

    def act(callback: Callable[[], None]) -> tuple[ExitWatch, float]:
        loop = asyncio.get_running_loop()
        living = watch_exit(*pinned, loop, callback)
        dead = watch_exit(pinned.pid, 5, loop, callback)
        living.close()
        dead.close()
        end(process)
        return living, 0.05

    assert run_watch(asyncio.new_event_loop, act) == 0


async def test_a_process_that_cannot_be_watched_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(Unavailable, match=r"cannot be watched: Too many open files"):
        watch_exit(os.getpid(), 1, asyncio.get_running_loop(), lambda: None)
