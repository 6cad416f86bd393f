"""What `tandem` prints: one JSON document, or compact aligned text; colour only on a terminal that wants it.

Text from elsewhere loses its control characters on the way, so that no name or reason can steer a terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import msgspec

from common.config.units import format_bytes, format_seconds
from common.errors import TandemError
from tandem.exits import mend_for
from tandem.verb_commands import for_people

Colour = Literal["good", "bad", "dim"]
Row = Sequence[object]

_ESCAPES: Final[dict[Colour, str]] = {"good": "\x1b[32m", "bad": "\x1b[31m", "dim": "\x1b[2m"}
_CONTROL: Final = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def size(count: int) -> str:
    """Bytes as people read them: `10.0 GiB`."""
    return format_bytes(count)


def age(seconds: float) -> str:
    """Seconds as people read them; whole ones up to a minute."""
    return f"{seconds:.0f} s" if 1 <= seconds < 59.5 else format_seconds(seconds)


def ago(at: str) -> str:
    """How long ago an RFC 3339 time was, by this machine's clock; empty for none."""
    if not at:
        return ""
    return age(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()))


def shortfall(need: int, free: int, reason: str) -> str:
    """Need, free and the reason for it, without saying twice what the reason says."""
    if size(need) in reason and size(free) in reason:
        return reason
    return f"needs {size(need)}, {size(free)} free ({reason})" if reason else f"needs {size(need)}, {size(free)} free"


def clean(text: object) -> str:
    """Text on one line, without control characters."""
    return str(text).replace("\t", " ").replace("\n", " ").translate(_CONTROL)


def coloured(stream: TextIO | None = None) -> bool:
    """Whether `stream` (stdout) is a terminal that wants colour (https://no-color.org)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: Colour) -> str:
    """`text` in a colour, where stdout shows colours."""
    return f"{_ESCAPES[colour]}{text}\x1b[0m" if coloured() else text


def say(text: str = "") -> None:
    """One line, or several, to stdout."""
    sys.stdout.write(text + "\n")


def write(text: str) -> None:
    """A program's own text to stdout; a terminal gets it without control characters."""
    sys.stdout.write(text.translate(_CONTROL) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def note(text: str) -> None:
    """One line to stderr."""
    sys.stderr.write(f"tandem: {clean(text)}\n")
    sys.stderr.flush()


def json_document(value: object, *, indented: bool = False) -> str:
    """`value` as JSON text on one line, or indented for people."""
    raw = msgspec.json.encode(value)
    return (msgspec.json.format(raw, indent=2) if indented else raw).decode()


def say_json(value: object) -> None:
    """The one JSON document of a command, as a line on stdout."""
    say(json_document(value))
    sys.stdout.flush()


def table(headers: Sequence[str], rows: Sequence[Row], *, right: Sequence[int] = (), indent: int = 0) -> None:
    """Columns aligned, those in `right` at their right edge; on a terminal no line is wider than it."""
    cells = [list(headers), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for number, row in enumerate(cells):
        line = " " * indent + "  ".join(_aligned(row, widths, right)).rstrip()
        line = fitted(line)
        say(paint(line, "dim") if number == 0 else line)


def _aligned(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if column in right else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def fitted(line: str, stream: TextIO | None = None) -> str:
    """`line` cut to the terminal's width; as it is where `stream` (stdout) is none."""
    if not (stream or sys.stdout).isatty():
        return line
    width = shutil.get_terminal_size().columns
    return line if len(line) <= width else line[: width - 1] + "…"


def error_document(error: TandemError) -> dict[str, Any]:
    """An error as `--json` shows it."""
    told = {
        "code": error.code.value,
        "message": error.message,
        "retryable": error.can_help_later,
        "retry_after_ms": error.retry_after_ms,
        "details": error.details,
    }
    return {"error": told}


def error_line(error: TandemError) -> str:
    """An error as people see it: what, where, and how to mend it."""
    mend, text = mend_for(error), for_people(error.message)
    return f"{text} ({mend})" if mend else text
