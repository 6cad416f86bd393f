"""What a door shows while hosts start and after: one live table on a terminal, else a line per change, or JSON for programs.

It writes on a thread of its own, since a terminal that is held (Ctrl-S) must not hold its supervisor. It decides nothing.
"""

from __future__ import annotations

import queue
import re
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, Protocol, TextIO

import msgspec

from common.api.supervisor import Process
from common.config.units import format_seconds

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

REFRESH_S: Final = 0.2
KEPT: Final = 1_000
"""What waits to be shown; more than this is not shown."""
CLOSE_S: Final = 2.0
_TIMES: Final = re.compile(r"\d+\.\d s")
_STYLES: Final = {"ready": "green", "crash-looping": "red", "starting": "yellow"}

State = Literal["starting", "ready", "failed", "stopping"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One host as its supervisor tells its door of it: how its first start stands, and all its processes.

    `unjoined` says, for each other host whose keys are not known here, what there is to do.
    """

    host: str
    state: State
    elapsed_s: float
    processes: list[Process]
    unjoined: dict[str, str] = {}


class Face(Protocol):
    """One way to show."""

    def progress(self, progress: Progress) -> None:
        """A host changed."""

    def say(self, text: str) -> None:
        """A sentence to the person who started this."""

    def tick(self) -> None:
        """A moment has passed."""

    def end(self) -> None:
        """Nothing more comes."""


class Board:
    """Shows on `face`, from a thread of its own; every call returns at once."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self._queue: queue.SimpleQueue[Progress | str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._show, name="board", daemon=True)
        self._thread.start()

    def show(self, progress: Progress) -> None:
        """Shows a host as it stands now."""
        if self._queue.qsize() < KEPT:
            self._queue.put(progress)

    def say(self, text: str) -> None:
        """Shows a sentence."""
        self._queue.put(text)

    def close(self) -> None:
        """Shows what is left, for CLOSE_S at most."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)

    def _show(self) -> None:
        try:
            while self._one():
                pass
        except (OSError, ValueError):
            pass  # whoever read it is gone; nobody is left to be told

    def _one(self) -> bool:
        try:
            item = self._queue.get(timeout=REFRESH_S)
        except queue.Empty:
            self._face.tick()
            return True
        if item is None:
            self._face.end()
            return False
        if isinstance(item, str):
            self._face.say(item)
        else:
            self._face.progress(item)
        return True


def open_board(hosts: Sequence[str], *, as_json: bool = False, out: TextIO | None = None) -> Board:
    """The board for `out` (standard output): JSON where asked for, a live table on a terminal, lines elsewhere."""
    stream = out or sys.stdout
    if as_json:
        return Board(JsonFace(stream))
    return Board(LiveFace(hosts, stream) if stream.isatty() else LineFace(stream))


class JsonFace:
    """A line of JSON for each change, to be read as Progress, which says all that a sentence would."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def progress(self, progress: Progress) -> None:
        """One line."""
        self._out.write(msgspec.json.encode(progress).decode() + "\n")
        self._out.flush()

    def say(self, text: str) -> None:
        """Nobody reads it."""

    def tick(self) -> None:
        """Nothing is shown between changes."""

    def end(self) -> None:
        """Nothing is left open."""


class LineFace:
    """A line for each process that changed: when, who, its phase, and why it waits or ended."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._told: dict[str, str] = {}

    def progress(self, progress: Progress) -> None:
        """A line for each change; a wait whose seconds alone went on is none."""
        for line in self.news(progress):
            self.say(f"{time.strftime('%H:%M:%S')}  {line}")

    def news(self, progress: Progress) -> list[str]:
        """The lines that were not told yet; from now on they are."""
        lines = []
        for process in progress.processes:
            name = f"{progress.host}/{process.name}"
            line = f"{name:<32} {process.phase:<14} {reason(process)}".rstrip()
            gist = _TIMES.sub("", line)
            if self._told.get(name) != gist:
                self._told[name] = gist
                lines.append(line)
        for peer, why in progress.unjoined.items():
            name = f"{progress.host} to {peer}"
            if self._told.get(name) != why:
                self._told[name] = why
                lines.append(f"{progress.host}: {why}")
        return lines

    def say(self, text: str) -> None:
        """The sentence as it is."""
        print(text, file=self._out, flush=True)

    def tick(self) -> None:
        """Nothing is shown between changes."""

    def end(self) -> None:
        """Nothing is left open."""


class LiveFace:
    """One table of all hosts that lives until their first start is over; lines after that."""

    def __init__(self, hosts: Sequence[str], out: TextIO) -> None:
        self._hosts: dict[str, Progress | None] = dict.fromkeys(hosts)
        self._lines = LineFace(out)
        self._live: Live | None = _live(out)

    def progress(self, progress: Progress) -> None:
        """The table anew, or lines once it is done."""
        self._hosts[progress.host] = progress
        if self._live is None:
            self._lines.progress(progress)
            return
        self._lines.news(progress)
        if all(host and host.state != "starting" for host in self._hosts.values()):
            self.end()
        else:
            self.tick()

    def say(self, text: str) -> None:
        """Above the table while there is one."""
        if self._live:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            self._lines.say(text)

    def tick(self) -> None:
        """Lets the seconds go on."""
        if self._live:
            self._live.update(self._table(), refresh=True)

    def end(self) -> None:
        """Leaves the table as it is; one that no supervisor told anything of is taken away."""
        if self._live:
            self.tick()
            self._live.transient = not any(self._hosts.values())
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table("process", "host", "phase", "waits for", "since", box=box.SIMPLE)
        for host, progress in self._hosts.items():
            for process in progress.processes if progress else ():
                phase = Text(process.phase, style=_STYLES.get(process.phase, ""))
                table.add_row(process.name, host, phase, Text(reason(process)), format_seconds(_since_s(process)))
            for peer, why in progress.unjoined.items() if progress else ():
                table.add_row(f"link to {peer}", host, Text("not joined", style="yellow"), Text(why), "")
            if not progress:
                table.add_row("supervisor", host, Text("starting", style="yellow"), "its ports", "")
        return table


def reason(process: Process) -> str:
    """Why the process waits, or how it ended."""
    over = process.phase in ("stopped", "crash-looping")
    return (process.last_exit if over else process.waiting_for) or ""


def _since_s(process: Process) -> float:
    return max(time.time() - datetime.fromisoformat(process.since).timestamp(), 0.0)


def _live(out: TextIO) -> Live:
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(file=out), auto_refresh=False, transient=False)
    live.start()
    return live
