"""The host's processes as the operating system has them: launches, watches, signals and records them; decides nothing.

Every process leads a session of its own. A life is over when its whole session is: what a process leaves behind is killed, and
only then is `Exited` told. Standard output and error come through pipes into the log; those of an entry that survives its
supervisor go straight into the file, as nobody would read the pipe.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from common.clock import Clock
from common.config.schema import Entry, Startup
from common.errors import Internal, NotFound, TandemError
from common.supervisor import sessions, watchdog
from common.supervisor.guard import Guard
from common.supervisor.home import HostHome
from common.supervisor.instructions import Exited, Launched
from common.supervisor.launching import Preparation, prepare
from common.supervisor.logs import LogWriter, tail_lines
from common.supervisor.sessions import Session
from common.supervisor.witness import Witness

CHUNK: Final = 65_536
TAIL_LINES: Final = 20
TAIL_LINE_BYTES: Final = 500
BREATH_S: Final = 0.01
"""The pause after a full chunk: a process that writes without end gets 6.5 MB/s of the loop, and waits for the rest."""
FIRST_LOOK_S: Final = 0.01
SLOWEST_LOOK_S: Final = 0.1
STUCK_AFTER_S: Final = 10.0
"""A session that outlives KILL by this long is stuck in the kernel: its end is told all the same, with what is left."""


class _Child:
    """One launched process and what hangs on it."""

    def __init__(self, entry: Entry, life: int, session: Session, log: LogWriter) -> None:
        self.entry = entry
        self.life = life
        self.session = session
        self.log = log
        self.popen: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.pipes: set[int] = set()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.partial = b""
        self.asked = False
        self.wanted = False
        self.killed_at: float | None = None

    def take_error(self, chunk: bytes) -> list[str]:
        *lines, self.partial = (self.partial + chunk).split(b"\n")
        texts = [line[:TAIL_LINE_BYTES].decode(errors="replace") for line in lines]
        self.tail.extend(texts)
        self.partial = self.partial[:TAIL_LINE_BYTES]
        return texts

    def last_lines(self) -> tuple[str, ...]:
        if self.entry.survive_supervisor:
            with suppress(OSError, TandemError):
                return tail_lines(self.log.path, TAIL_LINES)
            return ()  # an end has to be told, with last lines or without
        rest = [self.partial.decode(errors="replace")] if self.partial else []
        return tuple([*self.tail, *rest][-TAIL_LINES:])


class Processes:
    """All processes of one host; `on_exited` hears of each end, from the loop.

    `boot` is the supervisor's life; `home` is claimed already, and `root` is the TANDEM_HOME around it. `witness` hears what they
    write to their standard error, and how they end. To be used from the main thread's loop alone: Linux ends a child with the
    *thread* that started it.
    """

    def __init__(
        self,
        startup: Startup,
        home: HostHome,
        boot: str,
        clock: Clock,
        on_exited: Callable[[Exited], None],
        environ: Mapping[str, str] = os.environ,
        witness: Witness | None = None,
    ) -> None:
        self._startup = startup
        self._home = home
        self._boot = boot
        self._clock = clock
        self._on_exited = on_exited
        self._environ = environ
        self._witness = witness
        self._children: dict[str, _Child] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._guard = Guard(f"{boot}/")

    async def open(self) -> list[Launched]:
        """Starts the watchdog, ends what an earlier supervisor left behind, and adopts what was to survive it."""
        if threading.current_thread() is not threading.main_thread():
            raise Internal("processes are launched from the main thread alone: they would end with any other")
        entries = {entry.name: entry for entry in self._startup.entries if entry.survive_supervisor}
        found = sessions.load(self._home.sessions_file)
        kept = [one for one in found if one.survives and one.name in entries and sessions.alive(one)]
        await asyncio.to_thread(sessions.end_leftovers, [one for one in found if one not in kept], 2.0)
        self._guard.open()
        adopted = [launched for session in kept if (launched := self._adopt(entries[session.name], session))]
        self._record()
        return adopted

    def launch(self, name: str, life: int) -> Launched | Exited:
        """Starts `name`; where that fails, the reason as the end of a life that never began."""
        outcome = self._launch(name, life)
        if isinstance(outcome, Exited) and self._witness is not None:
            self._witness.ended(name, None, (), wanted=False, reason=outcome.reason)
        return outcome

    def _launch(self, name: str, life: int) -> Launched | Exited:
        entry = next(entry for entry in self._startup.entries if entry.name == name)
        home = self._home.root.parent
        return self.run(entry, life, lambda mark: prepare(self._startup, entry, home, mark, self._environ))

    def run(self, entry: Entry, life: int, preparation: Callable[[str], Preparation]) -> Launched | Exited:
        """Starts a process that the startup file need not list, as `preparation` says for the mark that it is to carry.

        Where that fails, the reason as the end of a life that never began.
        """
        name = entry.name
        log = LogWriter(self._home.log_file(name), entry.logs.max_bytes, entry.logs.keep)
        mark = f"{'survivor/' if entry.survive_supervisor else ''}{self._boot}/{name}"
        try:
            prepared = preparation(mark)
            popen = self._spawn(entry, prepared, log)
        except NotFound as error:
            return Exited(name, life, self._clock.monotonic(), None, error.message)
        except OSError as error:
            return Exited(name, life, self._clock.monotonic(), None, f"could not be launched: {error}")
        stat = watchdog.read_stat(popen.pid)
        assert stat is not None, "an unreaped child is always there"
        ports = prepared.ports
        session = Session(
            name, popen.pid, stat.start_time, mark, entry.survive_supervisor,
            ports.port, ports.events_port, ports.health_check_port,
        )  # fmt: skip
        child = _Child(entry, life, session, log)
        child.popen = popen
        try:
            self._enter(child)
        except OSError as error:
            popen.kill()
            popen.wait()
            return Exited(name, life, self._clock.monotonic(), None, f"could not be watched: {error}")
        self._record()
        return self._launched(child)

    def terminate(self, name: str) -> None:
        """Sends the entry's stop signal to every process of its session; harmless where there is none.

        Its leader has it at once: to find the others all processes of the host are gone through, aside.
        """
        if child := self._children.get(name):
            child.asked = child.wanted = True
            number = signal.Signals[f"SIG{child.entry.stop.signal}"]
            watchdog.send(child.session.process, number)
            self._aside(self._tell_others(child, number))

    def kill(self, name: str) -> None:
        """KILL to every process of its session; harmless where there is none."""
        if child := self._children.get(name):
            child.wanted = True
            self._kill(child)

    def session(self, name: str) -> Session | None:
        """The session of `name`, while there is one."""
        child = self._children.get(name)
        return child.session if child else None

    def log_file(self, name: str) -> Path:
        """Where the log of `name` lies."""
        return self._home.log_file(name)

    async def close(self) -> None:
        """Kills whatever still runs, waits for it, and lets the watchdog go."""
        while self._children:
            for child in list(self._children.values()):
                child.wanted = True
                self._kill(child)
            await asyncio.sleep(FIRST_LOOK_S)
        await asyncio.gather(*self._ending)
        await self._guard.close()

    def _spawn(self, entry: Entry, prepared: Preparation, log: LogWriter) -> subprocess.Popen[bytes]:
        if not entry.survive_supervisor:
            return _popen(prepared, subprocess.PIPE)
        log.rotate()
        with log.path.open("ab") as file:
            return _popen(prepared, file)

    def _adopt(self, entry: Entry, session: Session) -> Launched | None:
        log = LogWriter(self._home.log_file(entry.name), entry.logs.max_bytes, entry.logs.keep)
        child = _Child(entry, 1, session, log)
        try:
            self._enter(child)
        except ProcessLookupError:
            return None
        return self._launched(child)

    def _enter(self, child: _Child) -> None:
        loop = asyncio.get_running_loop()
        child.pidfd = os.pidfd_open(child.session.pid)
        self._children[child.entry.name] = child
        loop.add_reader(child.pidfd, self._leader_ended, child)
        for pipe in (child.popen.stdout, child.popen.stderr) if child.popen else ():
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                child.pipes.add(pipe.fileno())
                self._listen(child, pipe.fileno())
        if not child.session.survives:
            self._guard.watch(child.session)

    def _launched(self, child: _Child) -> Launched:
        session = child.session
        return Launched(
            child.entry.name, child.life, self._clock.monotonic(), session.pid, session.start_time,
            session.port, session.events_port, session.health_check_port, session.mark,
        )  # fmt: skip

    def _listen(self, child: _Child, pipe: int) -> None:
        if pipe in child.pipes:
            asyncio.get_running_loop().add_reader(pipe, self._hear, child, pipe)

    def _hear(self, child: _Child, pipe: int) -> None:
        if self._read(child, pipe) == CHUNK:
            loop = asyncio.get_running_loop()
            loop.remove_reader(pipe)
            loop.call_later(BREATH_S, self._listen, child, pipe)

    def _read(self, child: _Child, pipe: int) -> int:
        """Takes what one pipe has, up to a chunk; how many bytes that was."""
        try:
            chunk = os.read(pipe, CHUNK)
        except BlockingIOError:
            return 0
        if not chunk:
            self._drop(child, pipe)
            return 0
        child.log.write(chunk)
        if child.popen and child.popen.stderr and pipe == child.popen.stderr.fileno():
            lines = child.take_error(chunk)
            if self._witness is not None:
                self._witness.heard(child.entry.name, lines)
        return len(chunk)

    def _drain(self, child: _Child, pipe: int) -> None:
        """Takes what its processes left in the pipe, and no more than fits in it: a stray may hold it and write for ever."""
        left = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        while left > 0 and (taken := self._read(child, pipe)):
            left -= taken
        self._drop(child, pipe)

    def _drop(self, child: _Child, pipe: int) -> None:
        asyncio.get_running_loop().remove_reader(pipe)
        child.pipes.discard(pipe)

    async def _tell_others(self, child: _Child, number: signal.Signals) -> None:
        """The signal to whoever of its session is not its leader, while this life of it lasts."""
        found = await asyncio.to_thread(child.session.members)
        if self._children.get(child.entry.name) is child:
            for process in found - {child.session.process}:
                watchdog.send(process, number)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _kill(self, child: _Child) -> None:
        child.killed_at = child.killed_at or self._clock.monotonic()
        for process in child.session.members():
            watchdog.send(process, signal.SIGKILL)

    def _leader_ended(self, child: _Child) -> None:
        asyncio.get_running_loop().remove_reader(child.pidfd)
        os.close(child.pidfd)
        if not child.asked:
            self._kill(child)
        self._aside(self._end(child))

    async def _end(self, child: _Child) -> None:
        """Waits for the rest of the session, drains the pipes, and tells of the end."""
        pause_s = FIRST_LOOK_S
        while left := await asyncio.to_thread(child.session.members):
            if child.killed_at is not None and self._clock.monotonic() - child.killed_at > STUCK_AFTER_S:
                break
            if child.killed_at is not None:
                self._kill(child)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, SLOWEST_LOOK_S)
        code = child.popen.wait() if child.popen else None
        for pipe in list(child.pipes):
            self._drain(child, pipe)
        for stream in (child.popen.stdout, child.popen.stderr) if child.popen else ():
            if stream is not None:
                stream.close()
        child.log.close()
        self._forget(child)
        reason = f"{len(left)} of its processes cannot be killed" if left else ""
        tail = child.last_lines()
        if self._witness is not None:
            partial = [child.partial.decode(errors="replace")] if child.partial else []
            self._witness.heard(child.entry.name, partial)
            self._witness.ended(child.entry.name, code, tail, wanted=child.wanted, reason=reason)
        self._on_exited(Exited(child.entry.name, child.life, self._clock.monotonic(), code, reason, tail))

    def _forget(self, child: _Child) -> None:
        del self._children[child.entry.name]
        self._guard.forget(child.session)
        self._record()

    def _record(self) -> None:
        """Where the disk is full the watchdog still knows every session, so launching goes on."""
        with suppress(OSError):
            sessions.save(self._home.sessions_file, [child.session for child in self._children.values()])


def _popen(prepared: Preparation, sink: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """The process, leading a session of its own, with its output and its errors each going to `sink`."""
    return subprocess.Popen(
        prepared.argv,
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=sink,
        cwd=prepared.cwd,
        env=prepared.environ,
        start_new_session=True,
        bufsize=0,
    )
