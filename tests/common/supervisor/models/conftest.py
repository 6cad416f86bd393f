from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.docker import Docker, docker_on_path


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    with docker_on_path(tmp_path, monkeypatch) as found:
        yield found
