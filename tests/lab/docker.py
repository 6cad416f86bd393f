"""A docker that starts containers in a cgroup as the real one does, for tests of what is done about them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.gpu import cgroups

STAND_IN = Path(__file__).parent / "docker.sh"
PATIENCE_S = 60.0


class Docker:
    """The stand-in on PATH, and what it did."""

    def __init__(self, home: Path, cgroup: Path, container_id: str) -> None:
        self.home, self.cgroup, self.id = home, cgroup, container_id
        (home / "id").write_text(container_id)
        (home / "cgroup").write_text(str(cgroup))

    @property
    def words(self) -> list[str]:
        return (self.home / "words").read_text().splitlines()

    @property
    def ended(self) -> list[str]:
        file = self.home / "ended"
        return file.read_text().splitlines() if file.exists() else []

    async def pid(self) -> int:
        """The container's process, once there is one."""
        file = self.home / "pid"
        async with asyncio.timeout(PATIENCE_S):
            while not (file.exists() and file.read_text().strip()):
                await asyncio.sleep(0.02)
        return int(file.read_text())


@contextmanager
def docker_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    """`docker` is the stand-in until the end of the block; skips where no cgroup can be made."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("no cgroups of version 2 are mounted here")
    container_id = os.urandom(32).hex()
    cgroup = root / f"docker-{container_id}.scope"
    try:
        cgroup.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    home, programs = tmp_path / "docker", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    shutil.copy(STAND_IN, programs / "docker")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_DOCKER", str(home))
    yield Docker(home, cgroup, container_id)
    for pid in cgroups.members(container_id):
        os.kill(pid, signal.SIGKILL)
    for _ in range(2_000):
        try:
            cgroup.rmdir()
        except OSError:
            continue
        break
