"""Reports of errors: made from exceptions and log records, bounded and without secrets, each with a key that equal ones share.

The key is cheap and is made before anything is formatted: of an exception it is its type and where it was raised, of a log record
its template and where it was written, as those decide the group. Texts that differ within a second are told by the first.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any, Final

from common.api.error_bus import ErrorReport, Severity
from common.telemetry.logs import TRACE
from common.telemetry.showing import NAME_CHARS, Json, shown, shown_end, spelt, without_secrets

SHORT_CHARS: Final = 2_000
_FRAMES: Final = 64
_CAUSES: Final = 8
_DEPTH: Final = 4
_TOLD: Final = "_tandem_told"
_PLACEHOLDER: Final = re.compile(r"%(?:\([^)]*\))?[-+ #0]*[\d*]*(?:\.[\d*]+)?[a-zA-Z%]")
_LETTERS: Final = re.compile(r"[^\W\d_]")
_TELLING_LETTERS: Final = 4
_HOME: Final = ("__main__", "builtins")


def type_name(kind: type[BaseException]) -> str:
    """The type as tracebacks spell it."""
    name = kind.__qualname__ if kind.__module__ in _HOME else f"{kind.__module__}.{kind.__qualname__}"
    return name[:NAME_CHARS]


def shape_of(error: BaseException) -> Hashable:
    """Its type and every place it came through, and the same of its causes."""
    shapes: list[Hashable] = []
    cause: BaseException | None = error
    while cause is not None and len(shapes) < _CAUSES:
        shapes.append((type(cause), _places(cause)))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return tuple(shapes)


def _places(error: BaseException) -> Hashable:
    places: list[tuple[str, int]] = []
    step = error.__traceback__
    while step is not None and len(places) < _FRAMES:
        places.append((step.tb_frame.f_code.co_filename, step.tb_lineno))
        step = step.tb_next
    return tuple(places)


def told_before(error: BaseException) -> bool:
    """Whether this was asked before of the same error as it was raised then; raised anew, it is another occurrence."""
    raised = error.__traceback__
    while raised is not None and raised.tb_next is not None:
        raised = raised.tb_next
    if raised is None:
        return False
    before = getattr(error, _TOLD, None)
    with suppress(AttributeError, TypeError):
        setattr(error, _TOLD, raised)
    return before is raised


def stack_of(error: BaseException) -> str:
    """The traceback as text; its end where it is long."""
    try:
        return shown_end("".join(traceback.format_exception(error)))
    except Exception:  # an error is told as well as it lets itself be
        return ""


def error_report(
    agent: str,
    host: str,
    at: str,
    error: BaseException | str,
    message: str,
    severity: Severity,
    details: Mapping[str, Any],
) -> ErrorReport:
    """The report of an exception, or of an error that is only named."""
    raised = error if isinstance(error, BaseException) else None
    said = message or (spelt(error) if raised is not None else "")
    return ErrorReport(
        agent=agent,
        error_type=type_name(type(raised)) if raised is not None else shown(error, NAME_CHARS) or "Error",
        message=shown(said, SHORT_CHARS),
        severity=severity,
        details=_details(details),
        stack=stack_of(raised) if raised is not None else "",
        host=host,
        occurred_at=at,
    )


def record_key(record: logging.LogRecord) -> Hashable:
    """What equal log records share."""
    raised = record.exc_info[1] if record.exc_info else None
    where = record.name, record.levelno, record.pathname, record.lineno
    if raised is not None:
        return *where, shape_of(raised)
    return *where, record.msg if _tells(record) else shown(_message(record), SHORT_CHARS)


def _tells(record: logging.LogRecord) -> bool:
    """Whether the template says something without its arguments; `%s` does not."""
    if not isinstance(record.msg, str) or not record.args:
        return False
    return len(_LETTERS.findall(_PLACEHOLDER.sub("", record.msg[:SHORT_CHARS]))) >= _TELLING_LETTERS


def record_report(agent: str, host: str, at: str, record: logging.LogRecord) -> ErrorReport:
    """The report of a log record: of the exception it carries, else grouped by its template where that says something."""
    raised = record.exc_info[1] if record.exc_info else None
    said = shown(_message(record), SHORT_CHARS)
    severity: Severity = "critical" if record.levelno >= logging.CRITICAL else "error"
    details: dict[str, Any] = {"logger": record.name, "where": f"{record.pathname}:{record.lineno}"}
    if raised is not None:
        return error_report(agent, host, at, raised, "", severity, details | {"logged": said})
    template = shown(record.msg, SHORT_CHARS)
    return ErrorReport(
        agent=agent,
        error_type=record.name[:NAME_CHARS] or "root",
        message=said,
        severity=severity,
        details=_details(details | {"template": template}),
        stack=shown_end(record.stack_info) if record.stack_info else "",
        host=host,
        occurred_at=at,
        fingerprint=f"{record.name}: {template}"[:SHORT_CHARS] if _tells(record) else "",
    )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the template
        return f"{spelt(record.msg)} {spelt(record.args)}"


def _details(details: Mapping[str, Any]) -> dict[str, Json]:
    own: dict[str, Any] = {"pid": os.getpid()}
    if trace := TRACE.get():
        own["trace"] = trace
    shaped = without_secrets({**details, **own}, _DEPTH)
    assert isinstance(shaped, dict)
    return shaped
