"""Runs several hosts on this machine as one door process: a supervisor for each startup file, with one table of all.

It reads all files together, so that what does not fit across them is told at once. It restarts a supervisor that died, with a
back-off, and ends with all of them; when it is killed, they are told to stop. It starts no process of a startup file itself.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from common.config.loader import load_together
from common.config.schema import Entry, Restart, Startup
from common.config.settings import ALWAYS, LOOPBACK, SERVICES, SIMULATE_CARDS
from common.config.units import Duration, format_seconds
from common.supervisor.board import Board, Progress, open_board
from common.supervisor.launching import lacking, missing_wrappers
from common.supervisor.lifecycle import spell_code
from common.supervisor.listing import refused
from common.supervisor.policy import backoff_s
from common.supervisor.whereabouts import services_text

BACK_OFF: Final = Restart(delay_s=Duration(0.1), max_delay_s=Duration(5.0))
"""Restarts in a row wait longer and longer; a life that became ready ends the row."""
STUCK_S: Final = 20.0
"""A supervisor that outlives all that its processes' stops may take by this long hangs."""
MAX_LINE_BYTES: Final = 16 * 1024 * 1024


def start(files: Sequence[Path], *, keep_going: bool = False) -> int:
    """Runs the hosts of `files` until TERM or INT; 0 when told to stop, 1 when nothing was started or the start failed."""
    begun_at = time.monotonic()
    startups, problems = load_together(files)
    if problems:
        print(refused(problems), file=sys.stderr)
        return 1
    if missing := {program for startup in startups for program in missing_wrappers(startup)}:
        print(f"nothing was started: {lacking(missing)}", file=sys.stderr)
        return 1
    board = open_board([startup.host for startup in startups])
    try:
        return asyncio.run(_Door(list(zip(files, startups, strict=True)), board, keep_going, begun_at).serve())
    finally:
        board.close()


class _Door:
    """All hosts together: when all are ready, when the start failed, and when everything has ended."""

    def __init__(self, hosts: list[tuple[Path, Startup]], board: Board, keep_going: bool, begun_at: float) -> None:
        self._board = board
        self._begun_at = begun_at
        self._stopping = asyncio.Event()
        self._failed = self._told = False
        environ = _environ(startup for _, startup in hosts)
        self._hosts = [_Host(file, startup, environ, keep_going) for file, startup in hosts]

    async def serve(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
        keeping = [asyncio.create_task(self._keep(host)) for host in self._hosts]
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
        self._stopping.set()
        for host in self._hosts:
            host.signal(signal.SIGTERM)
        await asyncio.wait(keeping, timeout=max(host.patience_s() for host in self._hosts))
        for host in self._hosts:
            host.signal(signal.SIGKILL)
        await asyncio.gather(*keeping)
        return int(self._failed)

    async def _keep(self, host: _Host) -> None:
        """Keeps one host's supervisor until everything stops, or until its first start fails."""
        row = 0
        while not self._stopping.is_set():
            code = await host.live(self._heard, self._stopping)
            if self._stopping.is_set():
                break
            if code > 0 and not host.was_ready:
                self._failed = True
                break
            row = 1 if host.is_ready else row + 1
            pause_s = backoff_s(BACK_OFF, row, random.SystemRandom())
            self._board.say(
                f"{host.name}'s supervisor ended ({spell_code(code)}); it is started again in {pause_s:.1f} s"
            )
            await _unless(self._stopping, pause_s)

    def _heard(self, progress: Progress) -> None:
        self._board.show(progress)
        if not self._told and all(host.was_ready for host in self._hosts):
            self._told = True
            self._board.say(f"ready in {format_seconds(time.monotonic() - self._begun_at)}")
            self._board.say("\n".join(host.address() for host in self._hosts))
            self._board.say(f"`{own_command()} status` shows what runs; Ctrl-C stops it")


class _Host:
    """One host's supervisor, through all its lives."""

    def __init__(self, file: Path, startup: Startup, environ: dict[str, str], keep_going: bool) -> None:
        self.name = startup.host
        self.is_ready = self.was_ready = False
        self._file = file
        self._startup = startup
        self._environ = environ
        self._keep_going = keep_going
        self._process: Process | None = None

    async def live(self, heard: Callable[[Progress], None], stopping: asyncio.Event) -> int:
        """One life, to its end; the exit code, negative for a signal. One that the system would not begin ends with 1."""
        self.is_ready = False
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            print(f"{self.name}'s supervisor could not be launched: {error}", file=sys.stderr, flush=True)
            return 1
        if stopping.is_set():
            self.signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(self._follow(process.stdout, heard), _repeat(process.stderr))
        code = await process.wait()
        self._process = None
        return code

    def signal(self, number: int) -> None:
        """To the supervisor, if there is one: TERM stops everything in order, KILL leaves it to the watchdog.

        Not by the subprocess's own send_signal: that may reap one that has just ended, and its exit code is lost.
        """
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def patience_s(self) -> float:
        """How long an orderly stop may take: every process after the other, each killed in the end."""
        return STUCK_S + sum(entry.stop.term_s for entry in self._startup.entries)

    def address(self) -> str:
        """Where its services listen."""
        places = [("supervisor", str(self._startup.supervisor.port or ""))]
        places += [(service.name, listening_at(service)) for service in self._startup.services]
        return f"{self.name}: {', '.join(f'{name} {place}' for name, place in places if place)}"

    async def _spawn(self) -> Process:
        """In a session of its own: Ctrl-C reaches the door alone, which stops all. The door's death is a TERM."""
        package = "pc2" if self.name == "pc2" else "main_pc"
        options = ["--keep-going"] if self._keep_going or self.was_ready else []
        return await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", package, "--json", "--config", str(self._file)),
            *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=self._environ,
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )

    async def _follow(self, lines: asyncio.StreamReader, heard: Callable[[Progress], None]) -> None:
        async for line in lines:
            with suppress(msgspec.MsgspecError):
                progress = msgspec.json.decode(line, type=Progress)
                going = self._keep_going or self.was_ready
                self.is_ready = progress.state == "ready" or (progress.state == "failed" and going)
                self.was_ready = self.was_ready or self.is_ready
                heard(progress)


def listening_at(service: Entry) -> str:
    """A service's port, the address of one that speaks HTTP, or nothing where the file names none."""
    if service.port:
        return str(service.port)
    speaks_http = service.health.how == "http" and service.health_check_port
    return f"http://{LOOPBACK}:{service.health_check_port}" if speaks_http else ""


def own_command() -> str:
    """What the person who reads this types for `tandem`: the name where PATH has it, else the path from here."""
    script = Path(sys.executable).with_name("tandem")
    if shutil.which("tandem") is not None:
        return "tandem"
    if not script.exists():
        return f"{sys.executable} -m tandem"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)


async def _repeat(lines: asyncio.StreamReader) -> None:
    """Above the table, where there is one: it takes standard error in."""
    async for line in lines:
        print(line.decode(errors="replace").rstrip(), file=sys.stderr, flush=True)


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Waits `seconds`, or until `event`."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _environ(startups: Iterable[Startup]) -> dict[str, str]:
    """What every supervisor is told: cards may be simulated, or have to be, and where all hosts' services are."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    told = [os.environ.get(SERVICES, ""), *(services_text(startup, startup.supervisor) for startup in startups)]
    simulate = ALWAYS if os.environ.get(SIMULATE_CARDS) == ALWAYS else "1"
    return {**inherited, SIMULATE_CARDS: simulate, SERVICES: ",".join(text for text in told if text)}
