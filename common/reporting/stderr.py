"""Errors in what a process writes to its standard error: Python's tracebacks, whoever wrote them, and the end of the process.

Lines go in one by one, tracebacks come out whole: with their causes, without the lines of others that came between and the
prefix that a log put before each line, and bounded in any case. What a process says it reports itself is left to it. It reads
no stream and waits for nothing: when it is quiet for a moment, or over, `rest` gives what could have gone on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

REPORTS_ITSELF: Final = "[tandem: this process reports what it logs]"
"""A line that a process writes which reports its log records itself: its tracebacks are told already."""
REPORTED_NEXT: Final = "[tandem: the error below is reported]"
"""A line that a process writes before a traceback that it has reported."""

MOST_LINES: Final = 300
"""A longer traceback loses lines from its middle."""
KEPT_FIRST: Final = 40
STRANGE_LINES: Final = 50
"""After so many lines of others in its midst a traceback is given up."""

_HINT: Final = "Traceback (most recent call last):"
_START: Final = re.compile(r"(?P<prefix>.*?)(?P<group>\+ Exception Group )?Traceback \(most recent call last\):\s*\Z")
_END: Final = re.compile(r"(?P<type>[A-Za-z_][\w.]*)(?::(?: (?P<message>.*))?)?\Z")
_GROUP_END: Final = re.compile(r"\s*\| (?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?\Z")
_LINKS: Final = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_NO_ERRORS: Final = ("KeyboardInterrupt", "SystemExit", "GeneratorExit")


@dataclass(frozen=True, slots=True)
class Seen:
    """One traceback: the type and message it ends with, all its lines, and whether its process has reported it itself."""

    error_type: str
    message: str
    stack: str
    told: bool


class _At(Enum):
    OUTSIDE = 0
    WITHIN = 1
    ENDED = 2
    LINKED = 3


class StderrReader:
    """One life's standard error; `reports_itself` and `last` are of everything so far."""

    def __init__(self) -> None:
        self.reports_itself = False
        self.last: Seen | None = None
        self._at = _At.OUTSIDE
        self._lines: list[str] = []
        self._prefix = ""
        self._group = False
        self._strange = 0
        self._type = ""
        self._message = ""
        self._told = False

    @property
    def open(self) -> bool:
        """Whether a traceback has begun that may go on."""
        return self._at is not _At.OUTSIDE

    def feed(self, line: str) -> Seen | None:
        """Takes the next line, without its end; the traceback that it shows to be over, if any."""
        line = line.rstrip("\r")
        if line == REPORTS_ITSELF:
            self.reports_itself = True
            return None
        if line == REPORTED_NEXT:
            seen = self.rest()
            self._told = True
            return seen
        if self._at is _At.OUTSIDE:
            self._look_for_start(line)
            return None
        return self._go_on(self._bare(line))

    def rest(self) -> Seen | None:
        """No more lines for now: the traceback that was whole and might have gone on."""
        if self._type:
            return self._close()
        self._forget()
        return None

    def _look_for_start(self, line: str) -> None:
        match = _START.match(line) if _HINT in line else None
        if match is not None:
            self._at, self._strange = _At.WITHIN, 0
            self._group = match["group"] is not None
            self._prefix = "" if self._group else match["prefix"]
            self._keep(line[len(self._prefix) :])

    def _bare(self, line: str) -> str | None:
        """The line without the traceback's prefix; None where it is another's."""
        if not self._prefix:
            return line
        if line.startswith(self._prefix):
            return line[len(self._prefix) :]
        if len(self._lines) == 1 and line.startswith("  File "):
            self._prefix = ""  # the log put it before the first line alone
            return line
        return None if line else ""

    def _go_on(self, line: str | None) -> Seen | None:
        if line is None:
            return self._passed_over()
        if self._at is _At.WITHIN:
            return self._within(line)
        if not line.strip():
            self._keep(line)
            return None
        if self._at is _At.ENDED and line.strip() in _LINKS:
            self._keep(line)
            self._at = _At.LINKED
            return None
        if self._at is _At.LINKED and _START.match(line):
            self._keep(line)
            self._at, self._type = _At.WITHIN, ""
            return None
        if self._at is _At.LINKED:
            return self._passed_over()
        seen = self._close()
        self._look_for_start(self._prefix + line)
        return seen

    def _within(self, line: str) -> Seen | None:
        if _START.match(line):
            seen = self.rest()
            self._look_for_start(line)
            return seen
        if not line or line[0].isspace():
            self._keep(line)
            if self._group and not self._type and (match := _GROUP_END.match(line)):
                self._type, self._message = match["type"], match["message"] or ""
            return None
        if self._group and self._type:
            return self._close()
        match = _END.match(line)
        if match is None or len(self._lines) < 2 or not _is_type(match["type"]):
            return self._passed_over()
        self._keep(line)
        self._at, self._type, self._message = _At.ENDED, match["type"], match["message"] or ""
        return None

    def _passed_over(self) -> Seen | None:
        self._strange += 1
        return self.rest() if self._strange > STRANGE_LINES else None

    def _keep(self, line: str) -> None:
        self._lines.append(line)
        if len(self._lines) > MOST_LINES:
            del self._lines[KEPT_FIRST : KEPT_FIRST + 2]
            self._lines.insert(KEPT_FIRST, "  ...")

    def _close(self) -> Seen | None:
        stack = "\n".join(self._lines).rstrip()
        seen = Seen(self._type, self._message, stack, self._told or self.reports_itself)
        self._forget()
        if seen.error_type in _NO_ERRORS:
            return None
        self.last = seen
        return seen

    def _forget(self) -> None:
        self._at, self._lines, self._type, self._message, self._told = _At.OUTSIDE, [], "", "", False


def _is_type(name: str) -> bool:
    """Whether a traceback may end with this name; the level of a log line, such as ERROR, is none."""
    last = name.rpartition(".")[2]
    return ("." in name and bool(last)) or (last[:1].isupper() and not last.isupper())
