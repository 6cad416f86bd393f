"""Logs as JSON lines, through the standard logging: one line per record, bounded, without secrets.

    {"at": "2026-01-31T12:00:00.123Z", "level": "warning", "logger": "common.client", "message": "...", "service": "...",
     "host": "mainpc", "trace": "...", "error": {"type": "...", "message": "...", "stack": "..."}, "extra": {...}}

`trace`, `error` and `extra` are there when they have something to say. Writing a log line never raises and never stops the
work that wrote it: what cannot be written is counted. It decides nothing and rotates nothing.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, TextIO

from common.telemetry.showing import NAME_CHARS, TEXT_CHARS, Json, shown, shown_end, spelt, without_secrets

TRACE: Final[ContextVar[str]] = ContextVar("trace", default="")
"""The trace of the request being worked on; lines written meanwhile carry it."""

LINE_BYTES: Final = 16_384
"""The longest line, its end included."""

_SHORT_CHARS: Final = 300
_DEPTH: Final = 4
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "trace"}


class JsonLines(logging.StreamHandler[TextIO]):
    """The handler on the root logger; `lost` counts the lines that could not be written."""

    def __init__(self, stream: TextIO, service: str, host: str) -> None:
        super().__init__(stream)
        unicode = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
        self.setFormatter(JsonFormatter(service, host, unicode=unicode))
        self.lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Counts instead of complaining: there is nowhere left to complain to."""
        self.lost += 1


class JsonFormatter(logging.Formatter):
    """One record as one line of JSON."""

    def __init__(self, service: str, host: str, *, unicode: bool = True) -> None:
        super().__init__()
        self._service = service
        self._host = host
        self._ascii = not unicode

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; never raises."""
        try:
            return self._bounded(self._entry(record))
        except Exception as error:  # an odd record costs its content, not the work that wrote it
            entry = self._envelope(record)
            entry["message"] = f"a record that cannot be shown: {type(error).__name__}"
            return self._encode(entry)

    def _envelope(self, record: logging.LogRecord) -> dict[str, Json]:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return {
            "at": at.replace("+00:00", "Z"),
            "level": spelt(record.levelname)[:NAME_CHARS].lower(),
            "logger": spelt(record.name)[:NAME_CHARS],
            "message": "",
            "service": self._service,
            "host": self._host,
        }

    def _entry(self, record: logging.LogRecord) -> dict[str, Json]:
        entry = self._envelope(record)
        entry["message"] = shown(_message(record), TEXT_CHARS)
        trace = getattr(record, "trace", None) or TRACE.get()
        if trace:
            entry["trace"] = shown(trace, NAME_CHARS)
        if record.exc_info and record.exc_info[1] is not None:
            entry["error"] = _error(record.exc_info[1])
        if record.stack_info:
            entry["stack"] = shown_end(record.stack_info)
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if extra:
            entry["extra"] = without_secrets(extra, _DEPTH)
        return entry

    def _bounded(self, entry: dict[str, Json]) -> str:
        """Gives up the extras, then the stacks, then the end of the texts, until the line fits."""
        line = self._encode(entry)
        for shorten in (_without_extra, _without_stacks, _with_short_texts):
            if len(line) < LINE_BYTES // 4 or len(line.encode()) < LINE_BYTES:
                break
            shorten(entry)
            entry["cut"] = True
            line = self._encode(entry)
        return line

    def _encode(self, entry: dict[str, Json]) -> str:
        return json.dumps(entry, ensure_ascii=self._ascii, allow_nan=False, separators=(",", ":"))


def configure(service: str, host: str, *, stream: TextIO | None = None, level: str = "INFO") -> JsonLines:
    """Sends every record of `level` and above to `stream` (standard error by default) as JSON lines.

    To be called by a door, once; again, it replaces what it set up before. Raises ValueError for an unknown level.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in [handler for handler in root.handlers if isinstance(handler, JsonLines)]:
        root.removeHandler(handler)
    lines = JsonLines(sys.stderr if stream is None else stream, service, host)
    root.addHandler(lines)
    return lines


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the format
        return f"{spelt(record.msg)} {spelt(record.args)}"


def _error(error: BaseException) -> dict[str, Json]:
    stack = shown_end("".join(traceback.format_exception(error)))
    return {"type": type(error).__name__[:NAME_CHARS], "message": shown(error, TEXT_CHARS), "stack": stack}


def _without_extra(entry: dict[str, Json]) -> None:
    entry.pop("extra", None)


def _without_stacks(entry: dict[str, Json]) -> None:
    entry.pop("stack", None)
    error = entry.get("error")
    if isinstance(error, dict):
        error.pop("stack", None)


def _with_short_texts(entry: dict[str, Json]) -> None:
    entry["message"] = str(entry["message"])[:_SHORT_CHARS]
    error = entry.get("error")
    if isinstance(error, dict):
        error["message"] = str(error["message"])[:_SHORT_CHARS]
