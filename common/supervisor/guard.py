"""The supervisor's end of the watchdog: starts it, tells it of sessions, starts it anew when it dies; ends nothing else itself.

Nobody waits for a watchdog: one that does not read what it is told is killed and started anew.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Final

from common.supervisor import watchdog
from common.supervisor.sessions import Session

RESPAWN_S: Final = 1.0
CLOSE_S: Final = watchdog.KILL_LIMIT_S + 5.0
"""A watchdog that has not ended this long after its pipe closed does not run: it is stopped, or stuck in the kernel."""


class Guard:
    """One watchdog process, in a session of its own, for the sessions whose mark begins with `mark`."""

    def __init__(self, mark: str, grace_s: float = 2.0) -> None:
        self._mark = mark
        self._grace_s = grace_s
        self._sessions: dict[int, Session] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._respawn: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """The watchdog's pid; 0 while there is none."""
        return self._process.pid if self._process else 0

    def open(self) -> None:
        """Starts the watchdog and tells it of every session that is on."""
        self._respawn = None
        command = [sys.executable, "-I", "-S", watchdog.__file__, str(self._grace_s), self._mark]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd="/", env={}, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._pidfd = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._died)
        for session in self._sessions.values():
            self._tell(f"+ {session.pid} {session.start_time}\n")

    def watch(self, session: Session) -> None:
        """From now on this session ends with the supervisor."""
        self._sessions[session.pid] = session
        self._tell(f"+ {session.pid} {session.start_time}\n")

    def forget(self, session: Session) -> None:
        """The session is over."""
        if self._sessions.pop(session.pid, None):
            self._tell(f"- {session.pid}\n")

    async def close(self) -> None:
        """Closes the pipe and waits until the watchdog has ended what was still recorded, and itself."""
        if self._respawn:
            self._respawn.cancel()
        if self._process is None:
            return
        self._forget_pidfd()
        process, self._process = self._process, None
        if process.stdin:
            process.stdin.close()
        try:
            await asyncio.to_thread(process.wait, CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def _died(self) -> None:
        self._forget_pidfd()
        if self._process:
            self._process.communicate()
        self._process = None
        self._respawn = asyncio.get_running_loop().call_later(RESPAWN_S, self._open_again)

    def _open_again(self) -> None:
        try:
            self.open()
        except OSError:
            self._respawn = asyncio.get_running_loop().call_later(RESPAWN_S, self._open_again)

    def _forget_pidfd(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)

    def _tell(self, line: str) -> None:
        """A watchdog that just died, or is killed here, hears of everything when it is started anew."""
        if self._process is None or self._process.stdin is None:
            return
        told = line.encode()
        try:
            taken = self._process.stdin.write(told)
        except BrokenPipeError:
            return
        if taken != len(told):
            self._process.kill()
