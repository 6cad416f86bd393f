from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from common.gpu.process_identity import this_process
from common.supervisor.leasing.host_look import HostLook, look_at_host, ram_available_bytes
from common.vram.cards import ProcessId

NOBODY = ProcessId(2**22 + 1, 1)


def test_a_look_has_the_hosts_figures_and_what_owners_hold(tmp_path: Path) -> None:
    look = look_at_host(tmp_path, [this_process(), NOBODY])
    assert look.problem == ""
    assert look.ram_total_bytes == psutil.virtual_memory().total
    assert 0 < look.ram_available_bytes <= look.ram_total_bytes
    assert 0 <= look.disk_available_bytes <= look.disk_total_bytes
    assert look.cpu_cores == os.cpu_count()
    assert 2**20 < look.held_ram[this_process()] < look.ram_total_bytes
    assert look.held_ram[NOBODY] == 0


def test_what_ram_is_available_is_read_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ram_available_bytes()
    assert found is not None
    assert 0 < found <= psutil.virtual_memory().total

    def broken() -> None:
        raise OSError("no /proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", broken)
    assert ram_available_bytes() is None


def test_what_cannot_be_read_is_the_looks_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look_at_host(tmp_path / "nowhere", []).problem.startswith("[Errno 2]")

    def broken() -> None:
        raise RuntimeError("no /proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", broken)
    assert look_at_host(tmp_path, []) == HostLook(problem="no /proc/meminfo")
