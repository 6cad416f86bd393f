from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.gpu.process_identity import start_time
from tandem import running
from tandem.child import Child, exit_code
from tandem.exits import Exit
from tandem.options import Terms
from tandem.running import Order, run
from tandem.telling import Teller
from tests.tandem.fabric import GIB, Fabric


@pytest.fixture
async def stubborn() -> AsyncIterator[Child]:
    """A command that does not end at TERM, and says when it stands."""
    heard, said = os.pipe()
    os.set_inheritable(said, True)
    script = f"trap '' TERM; echo up >&{said}; while :; do sleep 0.05; done"
    child = Child(["bash", "-c", script], dict(os.environ))
    os.close(said)
    await asyncio.to_thread(os.read, heard, 2)
    os.close(heard)
    yield child
    await child.end(0.1)
    child.close()


async def test_a_command_that_ignores_term_is_killed(stubborn: Child) -> None:
    await stubborn.end(0.2)
    assert await asyncio.wait_for(stubborn.ended, 60) == 137
    assert not stubborn.lives
    assert start_time(stubborn.pid) is None
    stubborn.signal(15)


async def test_a_signal_that_comes_with_the_start_reaches_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = os.posix_spawnp

    def spawn_and_signal(*words: Any, **options: Any) -> int:
        pid = spawn(*words, **options)
        os.kill(os.getpid(), signal.SIGUSR1)
        return pid

    monkeypatch.setattr(os, "posix_spawnp", spawn_and_signal)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    child = Child(["sleep", "1000"], dict(os.environ))
    try:
        assert await asyncio.wait_for(child.ended, 60) == 128 + signal.SIGUSR1
    finally:
        await child.end(1)
        child.close()
        signal.signal(signal.SIGUSR1, before)


async def test_a_command_that_cannot_be_spawned_leaves_no_signal_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(FileNotFoundError):
        Child(["/no/such/program"], {})
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


@pytest.mark.parametrize(("status", "code"), [(0, 0), (3 << 8, 3), (9, 137), (15, 143)])
def test_a_wait_status_becomes_the_code_that_a_shell_shows(status: int, code: int) -> None:
    assert exit_code(status) == code


async def test_a_command_that_the_system_will_not_start_returns_its_lease(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> Child:
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(running, "Child", refuse)
    order = Order(command=["big"], terms=Terms(bytes=GIB), model="m", wait_s=0, ttl_s=60)
    report = await run(order, Teller(quiet=False, as_json=True))
    assert report.exit_code == Exit.NOT_EXECUTABLE
    assert report.error is not None
    assert not fabric.leases
    assert '"event":"failed","message":"big cannot be started: Argument list too long"' in capsys.readouterr().err
