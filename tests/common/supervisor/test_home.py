from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import Conflict
from common.supervisor.home import HostHome


class Clock:
    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 1_700_000_000.0


def test_a_second_claim_says_who_holds_the_home_and_since_when(tmp_path: Path) -> None:
    first, second = HostHome(tmp_path, "mainpc"), HostHome(tmp_path, "mainpc")
    first.claim(Clock())
    with pytest.raises(Conflict, match=rf"mainpc's home .* is held by pid {os.getpid()} since 2023-11-14T22:13:20Z"):
        second.claim(Clock())
    first.release()
    first.release()
    second.claim(Clock())
    second.release()


def test_each_host_has_a_folder_of_its_own_that_is_private(tmp_path: Path) -> None:
    first, second = HostHome(tmp_path, "mainpc"), HostHome(tmp_path, "pc2")
    first.claim(Clock())
    second.claim(Clock())
    assert first.root.stat().st_mode & 0o777 == 0o700
    assert first.log_file("a") == tmp_path / "mainpc" / "logs" / "a.log"
    assert second.sessions_file == tmp_path / "pc2" / "sessions.json"
    assert first.log_file("a").parent.is_dir()
    first.release()
    second.release()


def test_a_holder_that_did_not_say_its_name_still_holds(tmp_path: Path) -> None:
    first, second = HostHome(tmp_path, "h"), HostHome(tmp_path, "h")
    first.claim(Clock())
    (first.root / "lock").write_bytes(b"")
    with pytest.raises(Conflict, match="held by another supervisor"):
        second.claim(Clock())
    first.release()


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    first, second = HostHome(tmp_path, "h"), HostHome(tmp_path, "h")
    first.claim(Clock())
    code = "print('up', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    )
    assert child.stdout is not None
    child.stdout.readline()
    first.release()
    second.claim(Clock())
    second.release()
    child.communicate(b"\n")
