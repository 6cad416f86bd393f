"""One whole fabric for the tests that leave it as they found it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.lab.fabric import Fabric, running

ECHO = {
    "name": "echo",
    "command": [sys.executable, "-m", "tests.lab.echo_agent"],
    "capabilities": ["echo"],
    "depends_on": ["core_orchestrator"],
    "restart": {"when": "always", "attempts": 1000, "max_delay_s": "1s"},
}


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """A fabric with one agent, up for all tests of a file."""
    with running(tmp_path_factory.mktemp("fabric"), {"mainpc": [ECHO]}) as up:
        yield up
