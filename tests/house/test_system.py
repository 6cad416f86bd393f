from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts import system
from scripts.system import Package

THERE = Package("make", "make", "runs the targets")
LACKING = Package("anvil-server", "no-such-anvil", "forges", "anvil")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        ran.append([*command, "policy" if system.POLICY.exists() else "no policy"])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(system, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(system, "PACKAGES", (THERE, LACKING))
    monkeypatch.setattr(shutil, "which", lambda name, path="": None if name == "no-such-anvil" else name)
    return ran


def test_only_what_is_missing_is_named(commands: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert system.main(["list"]) == 0
    assert capsys.readouterr().out == "missing  anvil-server   forges\n"
    assert commands == []


def test_root_gets_what_is_missing_and_no_service_starts(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert system.main(["install"]) == 0
    update, install, disable = commands
    assert update[0] == "apt-get"
    assert install[-2:] == ["anvil-server", "policy"]
    assert disable[-2:] == ["anvil", "no policy"]


def test_others_are_told_what_root_would_run(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert system.main(["install"]) == 1
    assert capsys.readouterr().out.endswith("run as root: apt-get install --no-install-recommends anvil-server\n")
    assert commands == []


@pytest.mark.usefixtures("commands")
def test_a_policy_of_the_machines_own_is_left_alone() -> None:
    system.POLICY.write_text("own")
    with system.services_kept_still():
        assert system.POLICY.read_text() == "own"
    assert system.POLICY.read_text() == "own"


def test_a_file_may_show_that_a_package_is_there(tmp_path: Path) -> None:
    header = tmp_path / "stdio.h"
    package = Package("libc6-dev", str(header), "headers")
    assert not package.present()
    header.touch()
    assert package.present()
