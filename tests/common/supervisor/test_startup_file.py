from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.config import loader
from common.errors import Internal
from common.supervisor.listing import refused
from common.supervisor.startup_file import read_startup

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
