from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from common.config.validate import RESERVED
from tandem.adopting import looking
from tandem.cli import ended
from tests.tandem.fabric import Fabric, small_fabric

Answer = tuple[int, str, str]
Tandem = Callable[..., Awaitable[Answer]]


@pytest.fixture(autouse=True)
def without_what_the_run_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run, from which the engines here come, holds the well-known ports: none of them is an engine's."""
    listeners = looking.listeners
    monkeypatch.setattr(looking, "listeners", lambda: {p: pid for p, pid in listeners().items() if p not in RESERVED})


@pytest.fixture
async def fabric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fabric]:
    async with small_fabric(str(tmp_path)) as made:
        for name, value in made.environ().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def tandem(capsys: pytest.CaptureFixture[str]) -> Tandem:
    """Runs a command line beside the fakes, in a thread: (exit code, stdout, stderr)."""

    async def run(*words: str) -> Answer:
        code = await asyncio.to_thread(ended, list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def document(text: str) -> object:
    """The one JSON document on stdout."""
    return msgspec.json.decode(text)
