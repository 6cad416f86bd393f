"""What is known of a container by the file with its id, whoever else writes there; what becomes of real ones: tests/tandem."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from common.gpu import cgroups, container
from common.gpu.container import Container
from common.gpu.container_words import container_run
from common.gpu.process_identity import this_process

ONE, OTHER = "1" * 64, "2" * 64


def engine(folder: Path, told: str) -> Path:
    """A container engine that writes down what it was told, and does `told` besides."""
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\necho "$*" >> {folder / "told"}\n{told}\n')
    program.chmod(0o755)
    return program


def made(program: Path | str, *options: str, folder: Path | None = None, cwd: str = "") -> Container:
    found = container_run([str(program), "run", *options, "img"])
    assert found is not None
    return Container(found, lambda _: None, str(folder) if folder else "", cwd)


async def test_an_id_that_was_there_before_is_another_containers_and_is_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cidfile = tmp_path / "id"
    cidfile.write_text(ONE)
    monkeypatch.setattr(cgroups, "members", lambda found: [1] if found == ONE else [])
    await made(engine(tmp_path, "true"), f"--cidfile={cidfile}").end()
    assert not (tmp_path / "told").exists(), "docker refused to start anything over that file"


async def test_who_is_ended_is_the_one_that_ran_whatever_is_written_there_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cidfile = tmp_path / "id"
    alive = {ONE, OTHER}
    monkeypatch.setattr(cgroups, "members", lambda found: [1] if found in alive and not gone(found) else [])

    def gone(found: str) -> bool:
        return f"kill {found}" in (tmp_path / "told").read_text() if (tmp_path / "told").exists() else False

    monkeypatch.setattr(container, "STOP_S", 0.05)
    one = made(engine(tmp_path, f"echo {OTHER} > {cidfile}"), f"--cidfile={cidfile}")
    cidfile.write_text(ONE)
    await one.end()
    assert (tmp_path / "told").read_text().splitlines() == [f"stop -t 0 {ONE}", f"kill {ONE}"]


def test_the_file_that_a_command_names_is_relative_to_where_it_runs(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    found = made("docker", "--cidfile=id", folder=own, cwd=str(tmp_path))
    assert found.last_words[0] == str(tmp_path / "id")
    found.close()
    assert not own.exists()


def test_what_others_leave_in_the_folder_for_all_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine, space = this_process(), os.stat("/proc/self/ns/pid").st_ino
    of_others = tmp_path / f"tandem-run-{mine.pid}-{mine.start_time + 1}-{space}-x"
    of_others.mkdir()
    os.mkfifo(of_others / "cid")  # whoever opens it waits for a writer
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    made("docker").close()
    assert of_others.exists()


def test_what_is_no_text_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine, space = this_process(), os.stat("/proc/self/ns/pid").st_ino
    killed = tmp_path / f"tandem-run-{mine.pid}-{mine.start_time + 1}-{space}-x"
    killed.mkdir()
    (killed / "cid").write_bytes(b"\xff\xfe")
    made("docker").close()
    assert not killed.exists()
