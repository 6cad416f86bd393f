from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common.supervisor import sessions
from common.supervisor.sessions import Session, alive, end_leftovers, load, save
from tests.common.supervisor.lives import pinned


def test_what_is_saved_is_loaded_until_the_machine_boots_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("a", 7, 8, "boot/a", survives=True, port=9)
    save(tmp_path / "s.json", [session])
    assert load(tmp_path / "s.json") == [session]
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(sessions, "_KERNEL_BOOT", boot)
    assert load(tmp_path / "s.json") == []


def test_no_record_and_a_broken_one_hold_nothing(tmp_path: Path) -> None:
    assert load(tmp_path / "s.json") == []
    for broken in (b'{"kernel_boot": 5', b'{"kernel_boot": "\xff", "sessions": []}'):
        (tmp_path / "s.json").write_bytes(broken)
        assert load(tmp_path / "s.json") == []


def test_an_unmarked_session_claims_no_unmarked_stranger() -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True, env={"TANDEM_SUPERVISED": ""})
    assert Session("a", 2**22 + 1, 1, "").members() == set()
    stranger.kill()
    stranger.wait()


def test_leftovers_are_ended_and_a_pid_that_came_back_is_let_be() -> None:
    left = subprocess.Popen(["sleep", "60"], start_new_session=True)
    reused = subprocess.Popen(["sleep", "60"], start_new_session=True)
    first, second = pinned(left.pid), pinned(reused.pid)
    one = Session("a", first.pid, first.start_time, "")
    other = Session("b", second.pid, second.start_time - 1, "")
    assert alive(one)
    assert not alive(other)
    assert end_leftovers([one, other], 5.0) == set()
    left.wait(60)
    assert reused.poll() is None
    reused.kill()
    reused.wait()
    assert end_leftovers([], 5.0) == set()
