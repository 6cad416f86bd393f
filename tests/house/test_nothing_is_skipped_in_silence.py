from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest

def test_that_runs():
    pass

def test_that_says_why_it_cannot():
    pytest.skip("needs a card")

@pytest.mark.skip(reason="needs another card")
def test_that_is_marked():
    pass

def test_that_wants_a_command(needs):
    needs("no-such-command")
"""


def run(folder: Path, source: str, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A run of these tests under the house rules."""
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--rootdir", str(folder), *options]
    return subprocess.run(
        [*command, "-c", str(folder / "pytest.ini"), str(folder / "test_it.py")],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["alone", "spread over processes"])
def test_every_test_that_could_not_run_is_listed_by_name_with_its_reason(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = run(tmp_path, TESTS, *options)
    assert done.returncode == 0
    assert "could not run here: 3" in done.stdout
    assert (tmp_path / "build" / "could-not-run.txt").read_text().splitlines() == [
        "test_it.py::test_that_is_marked: needs another card",
        "test_it.py::test_that_says_why_it_cannot: needs a card",
        "test_it.py::test_that_wants_a_command: needs no-such-command (Debian package no-such-command: make system)",
    ]


def test_a_module_that_cannot_be_imported_is_listed_too(tmp_path: Path) -> None:
    run(tmp_path, "import pytest\npytest.importorskip('no_such_package', reason='needs no_such_package')\n")
    assert (tmp_path / "build" / "could-not-run.txt").read_text() == "test_it.py: needs no_such_package\n"


def test_a_mark_that_expects_failure_stops_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, "import pytest\n@pytest.mark.xfail\ndef test_it():\n    assert False\n")
    assert done.returncode != 0
    assert "no test may be expected to fail: test_it.py::test_it" in done.stderr


def test_a_test_that_calls_xfail_fails(tmp_path: Path) -> None:
    done = run(tmp_path, "import pytest\ndef test_it():\n    pytest.xfail('some day')\n")
    assert done.returncode == 1
    assert "mend it or say why it cannot run" in done.stdout
