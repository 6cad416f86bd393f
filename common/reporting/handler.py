"""What goes wrong unasked becomes reports: log records from ERROR upwards, and exceptions that nobody caught.

    logging.getLogger().addHandler(TandemHandler())

A supervisor reads its processes' standard error too. So a process that reports for itself says so there, once, and again before
the traceback of an exception that ends it: what it has told is not told twice. See `common/reporting/stderr.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from common.config.settings import MARK
from common.reporting.reporter import ErrorReporter, install, process_reporter
from common.reporting.reports import record_key, record_report, told_before
from common.reporting.stderr import REPORTED_NEXT, REPORTS_ITSELF

REPORTED: Final = "reported"
"""The attribute of a log record whose error was reported by whoever logged it."""

_OWN_LOGGERS: Final = ("tandem.reporting", "tandem.client")
_told: Final[set[str]] = set()


class TandemHandler(logging.Handler):
    """Reports records of `level` and above by `reporter`, the process's own where none is given. Never raises, never waits."""

    def __init__(
        self, reporter: ErrorReporter | None = None, level: int = logging.ERROR, *, alone: bool = True
    ) -> None:
        super().__init__(level)
        self._reporter = reporter
        if alone:
            _tell(REPORTS_ITSELF)

    def emit(self, record: logging.LogRecord) -> None:
        """Report one record; one that was reported by its writer or another handler, or is reporting's own, is left out."""
        if getattr(record, REPORTED, False):
            return
        if record.name.startswith(_OWN_LOGGERS):
            (self._reporter or process_reporter()).swallowed += 1
            return
        if record.exc_info and record.exc_info[1] is not None and told_before(record.exc_info[1]):
            return
        try:
            record.reported = True
            reporter = self._reporter or process_reporter()
            reporter.report(
                record_key(record), lambda: record_report(reporter.name, reporter.host, reporter.now(), record)
            )
        except Exception:  # a record that cannot be reported must not stop the work that wrote it
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """There is nowhere left to complain to."""


def _tell(line: str) -> None:
    """A line for the supervisor on standard error, where there is one."""
    if os.environ.get(MARK) and line not in _told:
        _told.add(line)
        _write(line)


def _write(line: str) -> None:
    try:
        print(line, file=sys.__stderr__, flush=True)
    except (OSError, ValueError):
        return  # nobody reads it


def report_everything(reporter: ErrorReporter) -> Callable[[], None]:
    """Makes `reporter` the process's own, which hears of every error that is logged or not caught; call the result to undo it."""
    install(reporter)
    handler = TandemHandler(reporter, alone=False)
    logging.getLogger().addHandler(handler)
    undo_uncaught = report_uncaught(reporter)

    def undo() -> None:
        undo_uncaught()
        logging.getLogger().removeHandler(handler)

    return undo


def report_uncaught(reporter: ErrorReporter) -> Callable[[], None]:
    """Reports what ends the process or a thread of it, then goes on as before; call what is returned to undo it."""
    was, was_in_thread = sys.excepthook, threading.excepthook

    def ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, Exception):
            reporter.report_error(error, severity="critical", details={"uncaught": True})
            if os.environ.get(MARK):
                _write(REPORTED_NEXT)
        was(kind, error, trace)

    def thread_ended(args: Any) -> None:
        if args.exc_value is not None and issubclass(args.exc_type, Exception):
            name = args.thread.name if args.thread is not None else ""
            reporter.report_error(args.exc_value, details={"uncaught": True, "thread": name})
            if os.environ.get(MARK):
                _write(REPORTED_NEXT)
        was_in_thread(args)

    def undo() -> None:
        sys.excepthook, threading.excepthook = was, was_in_thread

    sys.excepthook, threading.excepthook = ended, thread_ended
    return undo


def report_from_loop(reporter: ErrorReporter, loop: asyncio.AbstractEventLoop) -> None:
    """Reports what tasks and callbacks of `loop` raised and nobody awaited; it is logged as before."""
    was = loop.get_exception_handler()

    def heard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            said = str(context.get("message", ""))
            reporter.report_error(error, details={"uncaught": True, "loop": said})
        if was is not None:
            was(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(heard)
