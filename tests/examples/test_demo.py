"""The whole demo as `make demo` runs it, and its bad ends: a port that is taken, and a kill -9 in the middle."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.client.directory import Directory
from common.config.loader import load_together
from common.supervisor.whereabouts import services_text
from tests.lab.fabric import until

pytest.importorskip("py3langid", reason="needs the demo's models: examples/requirements.lock")

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, "-m", "examples.demo"]
FILES = [ROOT / "examples" / name for name in ("startup_main.yaml", "startup_pc2.yaml")]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a demo that has the demo's ports to itself, in a shell that belongs to another fabric."""
    other = {
        "TANDEM_HOME": str(tmp_path / "other"),
        "TANDEM_TOKEN": "of another fabric",
        "TANDEM_SERVICES": "No=1@127.0.0.1",
    }
    with (Path(tempfile.gettempdir()) / "tandem-demo-ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield os.environ | other | {"TMPDIR": str(tmp_path)}


def running(home: Path) -> list[str]:
    """The processes of a fabric that lives under `home`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TANDEM_HOME", "").startswith(str(home / "tandem-demo-")):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(600)
def test_every_answer_of_the_demo_is_right_and_nothing_of_it_stays(demo: dict[str, str], tmp_path: Path) -> None:
    ran = subprocess.run(DEMO, cwd=ROOT, env=demo, capture_output=True, text=True, timeout=500, check=False)
    story = ran.stdout + ran.stderr
    assert ran.returncode == 0, story
    assert "WRONG" not in story
    assert " 0 wrong" in story
    for told in (
        "done once: attempt 2, 1 call to the new reading, 1 task done",
        "one group, which counts 8",
        "regressed, 9 times",
        "without a token limit_tasks is refused: forbidden",
        "it is served",
        "after revoke_token it is refused: unauthenticated: the token is revoked",
    ):
        assert told in story, story
    assert running(tmp_path) == []
    assert list(tmp_path.glob("tandem-demo-*")) == []


@pytest.mark.timeout(600)
def test_a_demo_whose_port_is_taken_says_so_and_fails(demo: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 17090)):
        ran = subprocess.run(DEMO, cwd=ROOT, env=demo, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 1
    assert "127.0.0.1:17090 is taken by another process" in ran.stdout + ran.stderr
    assert "wrong: the fabric ended by itself" in ran.stdout
    assert running(tmp_path) == []


@pytest.mark.timeout(600)
def test_a_demo_that_is_killed_takes_its_fabric_along(demo: dict[str, str], tmp_path: Path) -> None:
    with subprocess.Popen(
        DEMO, cwd=ROOT, env=demo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as killed:
        assert killed.stdout is not None
        story = ""
        while "three agents are registered" not in story:
            line = killed.stdout.readline()
            assert line, story
            story += line
        assert len(running(tmp_path)) > 10
        killed.kill()
    until(lambda: not running(tmp_path), 30.0, "the end of the killed demo's fabric")


def test_its_startup_files_fit_together_and_are_where_it_looks() -> None:
    demo = pytest.importorskip("examples.demo", exc_type=ImportError)
    startups, problems = load_together(FILES)
    assert problems == []
    told = Directory.parse(",".join(services_text(startup, startup.supervisor) for startup in startups))
    looked_up = Directory.parse(demo.SERVICES)
    assert looked_up.names() == told.names()
    assert [looked_up.place(name) for name in told.names()] == [told.place(name) for name in told.names()]
