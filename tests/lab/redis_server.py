"""A real Redis server for one test run: its own folder, a unix socket and, if asked, a loopback port; stopped by its pid."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

START_S = 20.0


class RedisServer:
    """Runs `binary` in `folder`; `start` after `kill` brings the same records back, under `settings` as they are then."""

    def __init__(self, binary: str, folder: Path, *, appendfsync: str = "always", appendonly: str = "yes") -> None:
        self._binary = binary
        self._folder = folder
        self.settings = {"appendonly": appendonly, "appendfsync": appendfsync}
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None
        self.port = _free_port()
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.tcp_url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        """Returns once the server takes connections."""
        self._folder.mkdir(parents=True, exist_ok=True)
        setpriv = shutil.which("setpriv")
        dies_with_us = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        options = {"bind": "127.0.0.1", "port": self.port, "unixsocket": self.socket, "dir": self._folder, "save": ""}
        arguments = [str(part) for key, value in (options | self.settings).items() for part in (f"--{key}", value)]
        process = subprocess.Popen(
            [*dies_with_us, self._binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._process = process
        ready = threading.Event()
        said: list[str] = []
        self._drain = threading.Thread(target=self._listen, args=(process, ready, said), daemon=True)
        self._drain.start()
        if not ready.wait(START_S) or process.poll() is not None:
            self.kill()
            raise RuntimeError(f"{self._binary} did not start: {''.join(said[-20:])}")
        return self

    def kill(self) -> None:
        """Ends it as kill -9 does."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """Ends it in good order."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        self._reap()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It answers what has piled up."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _reap(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(60)
        if self._drain is not None:
            self._drain.join(60)
        self._process = None

    @staticmethod
    def _listen(process: subprocess.Popen[str], ready: threading.Event, said: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                said.append(line)
                if (
                    "The server is now ready to accept connections at" in line
                    or "Ready to accept connections unix" in line
                ):
                    ready.set()
        ready.set()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
