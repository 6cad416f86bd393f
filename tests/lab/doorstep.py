"""Who calls at the well-known ports of this machine while tests run: no test may, for a fabric of the user's may be there.

It holds those ports that are free, answers nobody, and names each caller of this run by its process and, where that was started
by a test, by the test. It is for machines on which nothing else is to run, since no fabric can start there meanwhile.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress

import psutil

from common.config.validate import RESERVED

TEST_VARIABLE = b"PYTEST_CURRENT_TEST="


class Doorstep:
    """Listens on `ports` of loopback from the beginning to `close`; `callers` are sentences, each once."""

    def __init__(self, ports: Iterable[int] = RESERVED) -> None:
        self.callers: list[str] = []
        self.held: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._bell, self._over = socket.socketpair()
        self._selector.register(self._over, selectors.EVENT_READ)
        self._open = [self._bell, self._over]
        for port in ports:
            with suppress(OSError):
                self._hold(port)
        self._thread = threading.Thread(target=self._watch, name="doorstep", daemon=True)
        self._thread.start()

    def _hold(self, port: int) -> None:
        door = socket.create_server(("127.0.0.1", port))
        self._open.append(door)
        self.held.append(door.getsockname()[1])
        self._selector.register(door, selectors.EVENT_READ, door)

    def _watch(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                connection, (_, port) = key.data.accept()
                self._open.append(connection)  # one that is closed comes again
                caller = _who(port)
                told = f"port {connection.getsockname()[1]} was called by {caller}"
                if caller and told not in self.callers:
                    self.callers.append(told)

    def close(self) -> None:
        """Let go of the ports."""
        self._bell.close()
        self._thread.join()
        for each in self._open:
            each.close()
        self._selector.close()


def _who(port: int) -> str:
    """The process of this run that has the local port of a connection, with the test that started it; empty for others."""
    pids = [each.pid for each in psutil.net_connections("tcp4") if each.laddr and each.laddr[1] == port and each.pid]
    try:
        process = psutil.Process(pids[0])
        with open(f"/proc/{pids[0]}/environ", "rb") as environ:
            told = [text for text in environ.read().split(b"\0") if text.startswith(TEST_VARIABLE)]
        if not told and os.getpid() not in (process.pid, *(parent.pid for parent in process.parents())):
            return ""
        words = " ".join(process.cmdline())[:200]
    except (IndexError, OSError, psutil.Error):
        return "a process that has ended"
    return f"{words}{''.join(f', in {text.removeprefix(TEST_VARIABLE).decode()}' for text in told)}"
