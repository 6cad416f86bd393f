"""A command run for someone else: in a process group of its own, with the terminal when it needs it, and never left behind.

Its group gets the signals that come here. Its stops by the terminal are our stops, as in a shell's job control (GNU C
library manual, "Implementing a Shell"). When we are killed, `setpriv --pdeathsig` ends the command and a guard ends its group.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_DEFAULTED: Final = [*FORWARDED, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU]
_GUARD: Final = """trap "" HUP INT QUIT TERM
read -r _ && exit
kill -s KILL -- "-$0"
[ $# -gt 0 ] && file=$1 && shift && [ -s "$file" ] && "$@" "$(cat "$file")"
"""
POLL_S: Final = 0.05


class Terminal:
    """The controlling terminal, where there is one: lent to the command's group, and taken back."""

    def __init__(self) -> None:
        try:
            self._fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._fd = -1
        self.lent = False
        # Without this, taking the terminal back from the background would stop us.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    @property
    def is_there(self) -> bool:
        """Whether this process has a controlling terminal."""
        return self._fd >= 0

    @property
    def is_ours(self) -> bool:
        """Whether our group is in the foreground."""
        return self._foreground() == os.getpgrp()

    def lend(self, group: int) -> None:
        """Put `group` into the foreground."""
        self._put(group)
        self.lent = True

    def take_back(self, group: int) -> None:
        """Put our group into the foreground again, if `group` is there."""
        if self.is_there and self._foreground() == group:
            self._put(os.getpgrp())

    def _foreground(self) -> int:
        try:
            return os.tcgetpgrp(self._fd)
        except OSError:
            return -1

    def _put(self, group: int) -> None:
        try:
            os.tcsetpgrp(self._fd, group)
        except OSError:
            return

    def close(self) -> None:
        """Let go of the terminal."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Child:
    """A command under way; made on the running loop of the main thread. `ended` holds its exit code, as shells give it."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], last_words: Sequence[str] = ()) -> None:
        """Start it. Raises OSError where the system cannot.

        `last_words` are a file and a command: when we are killed, the command is run with what is in the file, if anything is.
        """
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._terminal = Terminal()
        setpriv = shutil.which("setpriv")
        argv = [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else list(command)
        self._listen()
        try:
            self.pid = os.posix_spawnp(argv[0], argv, environ, setpgroup=0, setsigmask=[], setsigdef=_DEFAULTED)
        except OSError:
            self._turn_away()
            raise
        self._guard = _Guard(self.pid, last_words, environ)
        self._look()

    def _listen(self) -> None:
        """From now on no signal is lost: the loop brings it when it turns next, and then the command is there."""
        for number in FORWARDED:
            self._loop.add_signal_handler(number, self.signal, number)
        if self._terminal.is_there:
            self._loop.add_signal_handler(signal.SIGTSTP, self.signal, signal.SIGTSTP)
            self._loop.add_signal_handler(signal.SIGCONT, self._go_on)
        self._loop.add_signal_handler(signal.SIGCHLD, self._look)

    def _turn_away(self) -> None:
        for number in (*FORWARDED, signal.SIGTSTP, signal.SIGCONT, signal.SIGCHLD):
            self._loop.remove_signal_handler(number)
        self._terminal.close()

    def signal(self, number: int) -> None:
        """Send a signal to the command's whole group; harmless once nobody is there."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def _look(self) -> None:
        while not self.ended.done():
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._stopped(os.WSTOPSIG(status))
            else:
                self._terminal.take_back(self.pid)
                self.ended.set_result(exit_code(status))

    def _stopped(self, by: int) -> None:
        """A stop that asks for the terminal gets it, if it is ours to lend; any other stop by the terminal stops us too."""
        terminal = self._terminal
        if by in (signal.SIGTTIN, signal.SIGTTOU) and terminal.is_ours:
            terminal.lend(self.pid)
            self.signal(signal.SIGCONT)
        elif terminal.is_there and by in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            terminal.take_back(self.pid)
            self._stop_ourselves()
            self._go_on()

    def _stop_ourselves(self) -> None:
        self._loop.remove_signal_handler(signal.SIGTSTP)
        os.killpg(0, signal.SIGTSTP)
        time.sleep(POLL_S)  # the stop may reach another thread first
        self._loop.add_signal_handler(signal.SIGTSTP, self.signal, signal.SIGTSTP)

    def _go_on(self) -> None:
        if self._terminal.lent and self._terminal.is_ours:
            self._terminal.lend(self.pid)
        self.signal(signal.SIGCONT)

    async def end(self, grace_s: float) -> None:
        """TERM to the whole group, KILL after `grace_s` to whoever is left; returns when nobody is."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        if not await self._gone(grace_s):
            self.signal(signal.SIGKILL)
            await self._gone(grace_s)

    async def _gone(self, within_s: float) -> bool:
        until = self._loop.time() + within_s
        while self.lives and self._loop.time() < until:
            await asyncio.sleep(POLL_S)
        return not self.lives

    @property
    def lives(self) -> bool:
        """Whether anyone of the command's group runs, be it the command or what it left behind."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return has_living(self.pid)

    def close(self) -> None:
        """The group is nobody's business any more: dismiss the guard, hand the terminal back."""
        self._terminal.take_back(self.pid)
        self._terminal.close()
        self._guard.dismiss()


class _Guard:
    """A shell that waits for a word from us, and kills the group when we end without one."""

    def __init__(self, group: int, last_words: Sequence[str], environ: Mapping[str, str]) -> None:
        ear, self._mouth = os.pipe2(os.O_CLOEXEC)
        quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        self._pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _GUARD, str(group), *last_words],
            dict(environ) if last_words else {},
            file_actions=[(os.POSIX_SPAWN_DUP2, ear, 0), *quiet],
            setpgroup=0,
        )
        os.close(ear)

    def dismiss(self) -> None:
        os.write(self._mouth, b"\n")
        os.close(self._mouth)
        os.waitpid(self._pid, 0)


def exit_code(status: int) -> int:
    """What a shell would report for a wait status: the exit code, or 128 plus the signal."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def has_living(group: int) -> bool:
    """Whether a process of this group runs; a zombie that its parent has not reaped does not (proc(5))."""
    return any(_living_in(group, entry) for entry in os.listdir("/proc") if entry.isdigit())


def _living_in(group: int, pid: str) -> bool:
    try:
        stat = Path("/proc", pid, "stat").read_bytes()
    except OSError:
        return False
    state, _parent, own_group = stat[stat.rindex(b")") + 2 :].split()[:3]
    return int(own_group) == group and state not in (b"Z", b"X")
