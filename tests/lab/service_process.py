"""A service in a process of its own, asked natively or over a bare socket, and looks that are repeated until it holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import zmq

from common.client.aio import AsyncClient
from common.client.opening import open_async_client
from common.errors import TandemError
from tests.lab.fabric import ROOT, free_ports
from tests.lab.nowhere import nobody_but

T = TypeVar("T")
Dict = dict[str, Any]


async def until(look: Callable[[], Awaitable[T]], holds: Callable[[T], bool], within_s: float = 60.0) -> T:
    """Look until it holds; what was last seen is in the failure."""
    seen: Any = None
    try:
        async with asyncio.timeout(within_s):
            while not holds(seen := await look()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not so within {within_s} s; last seen: {seen}") from None
    return seen


def _asked(port: int, message: bytes) -> Dict:
    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.setsockopt(zmq.LINGER, 0)
        asking.setsockopt(zmq.RCVTIMEO, 60_000)
        asking.connect(f"tcp://127.0.0.1:{port}")
        asking.send(message)
        answer: Dict = json.loads(asking.recv())
        return answer


async def ask(at: int, verb: str, /, **fields: Any) -> Dict:
    """What a bare REQ socket gets for one JSON object."""
    return await asyncio.to_thread(_asked, at, json.dumps({"action": verb, **fields}).encode())


class ServiceProcess:
    """`python -m PACKAGE NAME` at the same ports in every life, with `service` as its public name; `more` is told it besides."""

    def __init__(self, package: str, name: str, service: str, host: str, home: Path) -> None:
        self.home = home
        self.ports = free_ports(3)
        self.more: dict[str, str] = {}
        self.child: subprocess.Popen[bytes] | None = None
        self.program = [sys.executable, "-m", package, name]
        self._service = service
        self._host = host

    @property
    def place(self) -> str:
        """As a directory has it."""
        return f"{self._service}={self.ports[0]}:{self.ports[1]}@127.0.0.1"

    def environment(self) -> dict[str, str]:
        """What it is told."""
        port, events_port, health_port = map(str, self.ports)
        told = {"TANDEM_PORT": port, "TANDEM_EVENTS_PORT": events_port, "TANDEM_HEALTH_PORT": health_port}
        return os.environ | told | {"TANDEM_HOME": str(self.home), "TANDEM_HOST": self._host} | self.more

    def start(self) -> None:
        """A new life."""
        self.child = subprocess.Popen(self.program, cwd=ROOT, env=self.environment(), stderr=subprocess.DEVNULL)

    def second_start(self) -> subprocess.CompletedProcess[str]:
        """Another of the same, to its end."""
        return subprocess.run(
            self.program, cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=120, check=False
        )

    async def until_ready(self, client: AsyncClient, within_s: float = 60.0) -> None:
        """Wait until it says that it is ready."""
        async with asyncio.timeout(within_s):
            while True:
                try:
                    if (await client.call(self._service, "health_check", timeout_s=1.0))["ready"]:
                        return
                except TandemError:
                    await asyncio.sleep(0.02)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End it; its exit status."""
        assert self.child is not None
        self.child.send_signal(number)
        return self.child.wait(timeout=60)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        """A native client of it."""
        client = open_async_client(None, nobody_but(self.place))
        try:
            yield client
        finally:
            await client.close()


@contextmanager
def ended_at_last(process: ServiceProcess) -> Iterator[ServiceProcess]:
    """Killed where it still runs at the end."""
    yield process
    if process.child is not None and process.child.poll() is None:
        process.kill()
