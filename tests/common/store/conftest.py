from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.common.store.contract import backends
from tests.common.store.contract.backends import Backend
from tests.lab.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_folder() -> Iterator[Path]:
    """Short, since the path of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tandem-redis-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def redis_server(redis_folder: Path, needs: Callable[[str], str]) -> Iterator[RedisServer]:
    """One server for tests that leave it running."""
    server = RedisServer(needs("redis-server"), redis_folder / "shared").start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(redis_folder: Path, needs: Callable[[str], str]) -> Iterator[Callable[..., RedisServer]]:
    """Makes servers that a test may kill, freeze or set up badly."""
    servers: list[RedisServer] = []

    def make(**settings: str) -> RedisServer:
        folder = Path(tempfile.mkdtemp(dir=redis_folder))
        servers.append(RedisServer(needs("redis-server"), folder, **settings).start())
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Every backend."""
    return _made(request, tmp_path)


@pytest.fixture(params=["sqlite", "redis"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Every backend that outlives its process."""
    return _made(request, tmp_path)


def _made(request: pytest.FixtureRequest, folder: Path) -> Backend:
    match request.param:
        case "memory":
            return backends.memory()
        case "sqlite":
            return backends.sqlite(folder)
        case _:
            return backends.redis(request.getfixturevalue("redis_server").url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("needs root to mount a small tmpfs (Debian package mount)")
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"needs the right to mount a small tmpfs: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
