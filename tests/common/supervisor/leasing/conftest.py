"""Cards seen through NVML's stand-in, and a program to hold them, for the scenarios of what has gone wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.vram.cards import ProcessId
from tests.common.supervisor.leasing.lab import program
from tests.common.supervisor.leasing.manual_time import bind_stand_in
from tests.lab.nvml.stand_in import build_stand_in


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for libnvidia-ml.so.1."""
    return build_stand_in(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def cards(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of two cards, of 24 and 12 GiB, that NVML lists."""
    bind_stand_in(library, tmp_path / "cards", monkeypatch)
    return tmp_path / "cards"


@pytest.fixture
def sleeper() -> Iterator[ProcessId]:
    """A program that ends when it is told to."""
    with program() as process:
        yield process
