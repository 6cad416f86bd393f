"""Simulated cards, real processes to put on them, and NVML's stand-in loaded into this process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest

from common.gpu.process_identity import identify
from common.gpu.simulated import GIB, ensure_cards
from common.vram.cards import ProcessId
from tests.lab.nvml.stand_in import build_stand_in


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for libnvidia-ml.so.1, built once a run."""
    return build_stand_in(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """A folder with two simulated cards, of 24 and 12 GiB."""
    folder = tmp_path / "mainpc" / "cards"
    ensure_cards(folder, "mainpc", (24 * GIB, 12 * GIB))
    return folder


@pytest.fixture
def nvml(nvml_library: Path, cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real binding, bound to the stand-in, which sees `cards`."""
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(nvml_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setenv("TANDEM_SIMULATED_CARDS", str(cards))
    monkeypatch.delenv("TANDEM_NVML_WITHOUT", raising=False)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a program in a session of its own; whatever is left of the session is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, close_fds: bool = True) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            close_fds=close_fds,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def sleeper(start: Callable[..., subprocess.Popen[str]]) -> Callable[[], tuple[subprocess.Popen[str], ProcessId]]:
    """Starts a process that does nothing until it is killed."""

    def run() -> tuple[subprocess.Popen[str], ProcessId]:
        process = start("sleep", "1000")
        pinned = identify(process.pid)
        assert pinned is not None
        return process, pinned

    return run
