from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.supervisor import watchdog
from common.supervisor.watchdog import Process, is_alive, main, members, read_stat, send, sweep
from tests.common.supervisor.lives import gone, ignores_term, pid_in, pinned, stubborn, wait_until


def spawn(command: list[str], mark: str = "") -> tuple[subprocess.Popen[bytes], Process]:
    popen = subprocess.Popen(command, start_new_session=True, env={"TANDEM_SUPERVISED": mark})
    return popen, pinned(popen.pid)


def watch(mark: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", watchdog.__file__, "0.3", mark]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, bufsize=0)


def tell(dog: subprocess.Popen[bytes], text: str) -> None:
    assert dog.stdin is not None
    dog.stdin.write(text.encode())


def test_when_the_pipe_closes_the_recorded_sessions_end_and_others_do_not(tmp_path: Path) -> None:
    stubborn_one, first = spawn(stubborn(tmp_path / "pid"))
    forgotten, second = spawn(["sleep", "60"])
    stranger, third = spawn(["sleep", "60"])
    wait_until((tmp_path / "pid").exists)
    grandchild = pid_in(tmp_path / "pid")
    dog = watch("no-such-mark/")
    tell(dog, f"+ {first.pid} {first.start_time}\n+ {second.pid} {second.start_time}\n- {second.pid}\n- 1\n")
    tell(dog, f"+ {third.pid} {third.start_time - 1}\n")
    wait_until(lambda: ignores_term(dog.pid))
    dog.send_signal(signal.SIGTERM)
    dog.communicate(timeout=60)
    assert dog.returncode == 0
    assert stubborn_one.wait(60) == -signal.SIGKILL
    assert gone(first, grandchild)
    assert is_alive(second)
    assert is_alive(third), "a session led anew is another one"
    for popen in (forgotten, stranger):
        popen.kill()
        popen.wait()


def test_a_process_that_left_its_session_is_found_by_its_mark(tmp_path: Path) -> None:
    popen, leader = spawn(stubborn(tmp_path / "pid", leaves_session=True), mark="boot-7/a")
    other, stranger = spawn(["sleep", "60"], mark="boot-77/a")
    wait_until((tmp_path / "pid").exists)
    stray = pid_in(tmp_path / "pid")
    stat = read_stat(stray.pid)
    assert stat is not None
    assert stat.session != leader.pid
    dog = watch("boot-7/")
    dog.communicate(timeout=60)
    popen.wait(60)
    assert gone(leader, stray)
    assert is_alive(stranger)
    other.kill()
    other.wait()


def test_a_mark_marks_nothing_that_is_older_than_its_session() -> None:
    popen, process = spawn(["sleep", "60"], mark="boot-8/a")
    mark = b"boot-8/a\0"
    assert members({}, mark) == members({}, mark, process.start_time) == {process}
    assert members({}, mark, process.start_time + 1) == set()
    popen.kill()
    popen.wait()


def test_a_polite_session_ends_without_being_killed(tmp_path: Path) -> None:
    popen, leader = spawn(["sleep", "60"])
    sweep(lambda: members({leader.pid: leader.start_time}, b""), 30.0)
    assert popen.wait(60) == -signal.SIGTERM


def test_what_cannot_be_ended_is_given_up_and_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "KILL_LIMIT_S", 0.05)
    monkeypatch.setattr(watchdog, "send", lambda process, number: None)
    stuck = Process(1, 1)
    assert sweep(lambda: {stuck}, 0.0) == {stuck}


def test_a_zombie_and_a_pid_that_came_back_are_not_alive() -> None:
    popen, process = spawn(["true"])
    wait_until(lambda: gone(process))
    assert read_stat(process.pid) is not None
    assert members({process.pid: process.start_time}, b"") == set()
    popen.wait()
    assert read_stat(process.pid) is None
    here = pinned(os.getpid())
    assert is_alive(here)
    assert not is_alive(Process(here.pid, here.start_time + 1))


def test_a_signal_goes_to_the_pinned_process_or_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    popen, process = spawn(["sleep", "60"])
    send(Process(process.pid, process.start_time + 1), signal.SIGKILL)
    send(Process(2**22 + 1, 1), signal.SIGKILL)
    assert popen.poll() is None
    send(process, 999)
    send(process, signal.SIGKILL)
    assert popen.wait(60) == -signal.SIGKILL


def test_a_session_goes_on_without_its_leader(tmp_path: Path) -> None:
    popen, leader = spawn(stubborn(tmp_path / "pid", then=""))
    wait_until((tmp_path / "pid").exists)
    grandchild = pid_in(tmp_path / "pid")
    popen.wait(60)
    assert members({leader.pid: leader.start_time}, b"") == {grandchild}
    assert not sweep(lambda: members({leader.pid: leader.start_time}, b""), 0.0)
    assert gone(grandchild)


def test_the_program_reads_its_pipe_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[object] = []
    lines = [b"+ 7 8\n", b"+ 9 9\n", b"- 9\n", b"- 5\n"]
    monkeypatch.setattr(watchdog.sys, "stdin", SimpleNamespace(buffer=lines))
    monkeypatch.setattr(watchdog.signal, "signal", lambda number, action: None)
    monkeypatch.setattr(watchdog, "sweep", lambda find, grace_s: swept.append(find()))
    monkeypatch.setattr(watchdog, "members", lambda sessions, mark: (dict(sessions), mark))
    main(1.0, b"m")
    assert swept == [({7: 8}, b"m")]
