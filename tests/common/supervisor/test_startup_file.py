from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import loader
from common.errors import BadRequest, DeadlineExceeded, Internal
from common.supervisor import startup_file
from common.supervisor.listing import refused
from common.supervisor.startup_file import read_again, read_startup

CONFIG = Path(__file__).resolve().parents[3] / "config"


@pytest.mark.parametrize("name", ["startup_main.yaml", "startup_pc2.yaml"])
def test_a_file_comes_as_the_loader_reads_it(name: str) -> None:
    assert read_startup(CONFIG / name) == loader.load(CONFIG / name)


def test_every_problem_of_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "startup.yaml"
    file.write_text("version: 1\nhost: h\nagents: [{name: 5}]\nwhat: {}\n")
    problems = loader.load(file)
    assert isinstance(problems, list)
    assert len(problems) > 1
    assert read_startup(file) == refused(problems)


def test_a_reading_process_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_path: Path) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(loader, "load", broken)
    with pytest.raises(Internal, match="the reading process ended with 1"):
        read_startup(CONFIG / "startup_main.yaml")
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_the_parser_stays_out_of_the_process_that_asks() -> None:
    code = (
        "import sys; from pathlib import Path; from common.supervisor import door; "
        f"door.read_startup(Path({str(CONFIG / 'startup_main.yaml')!r})); "
        "sys.exit(any(name in sys.modules for name in ('yaml', 'common.config.loader', 'common.config.validate')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


async def test_a_file_is_read_again_while_the_supervisor_lives(tmp_path: Path) -> None:
    assert await read_again(CONFIG / "startup_main.yaml") == loader.load(CONFIG / "startup_main.yaml")
    file = tmp_path / "startup.yaml"
    file.write_text("version: 1\nhost: h\nwhat: {}\n")
    with pytest.raises(BadRequest, match="what"):
        await read_again(file)


async def test_a_reading_process_that_never_ends_or_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "startup.yaml")
    monkeypatch.setattr(startup_file, "READ_S", 0.5)
    with pytest.raises(DeadlineExceeded, match="was not read within"):
        await read_again(tmp_path / "startup.yaml")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Internal, match="the reading process ended with 1"):
        await read_again(tmp_path / "startup.yaml")
