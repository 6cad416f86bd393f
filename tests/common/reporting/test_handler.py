from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from common.api.error_bus import ErrorReport
from common.reporting.handler import (
    REPORTED,
    TandemHandler,
    report_everything,
    report_from_loop,
    report_uncaught,
)
from common.reporting.outbox import OWN_WORK
from common.reporting.reporter import ErrorReporter, process_reporter
from common.reporting.spool import Spool
from common.reporting.stderr import REPORTED_NEXT, REPORTS_ITSELF
from tests.common.reporting.stand_in import ROOT
from tests.lab.nowhere import NOWHERE


def spooled(home: Path, name: str = "program") -> list[ErrorReport]:
    """What lies in a spool that is closed."""
    spool = Spool(home / "mainpc/spool" / name / "errors")
    spool.open(1.0)
    found: list[bytes] = []
    while (batch := spool.read(1_000, 10**6)) is not None:
        found += batch.payloads
        spool.acknowledge(batch.last)
    spool.close()
    return [msgspec.msgpack.decode(payload, type=ErrorReport) for payload in found]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    monkeypatch.setenv("TANDEM_SERVICES", NOWHERE)
    return tmp_path


@pytest.fixture
def reporter(home: Path) -> Iterator[ErrorReporter]:
    made = ErrorReporter("program")
    yield made
    made.close(0.0)


@pytest.fixture
def log(reporter: ErrorReporter) -> Iterator[logging.Logger]:
    found = logging.getLogger("tests.reporting")
    handler = TandemHandler(reporter)
    found.addHandler(handler)
    yield found
    found.removeHandler(handler)


def told(reporter: ErrorReporter, home: Path) -> list[ErrorReport]:
    reporter.close(0.0)
    return spooled(home)


def test_records_from_error_upwards_become_reports(reporter: ErrorReporter, log: logging.Logger, home: Path) -> None:
    log.warning("not this")
    log.error("no such file: %s", "a.txt")
    log.critical("the end")
    first, second = told(reporter, home)
    assert (first.error_type, first.message, first.severity) == ("tests.reporting", "no such file: a.txt", "error")
    assert first.details["template"] == "no such file: %s"
    assert first.fingerprint == "tests.reporting: no such file: %s"
    assert (second.message, second.severity, second.fingerprint) == ("the end", "critical", "")


def test_equal_templates_within_a_second_are_one_record_with_a_count(
    reporter: ErrorReporter, log: logging.Logger, home: Path
) -> None:
    for number in range(1_000):
        log.error("row %d is wrong", number)
    reports = told(reporter, home)
    assert sum(report.count for report in reports) == 1_000
    assert len(reports) < 100


def test_a_template_that_says_nothing_groups_nothing(reporter: ErrorReporter, log: logging.Logger, home: Path) -> None:
    for said in ("one thing", "another thing"):
        log.error("%s", said)
    log.error(7)
    reports = told(reporter, home)
    assert [(report.message, report.fingerprint) for report in reports] == [
        ("one thing", ""),
        ("another thing", ""),
        ("7", ""),
    ]


def test_a_logged_exception_is_the_exceptions_report(reporter: ErrorReporter, log: logging.Logger, home: Path) -> None:
    try:
        raise LookupError("nothing there") from ValueError("the cause")
    except LookupError as error:
        log.exception("could not look %s up", "it")
        reporter.report_error(error)
    (report,) = told(reporter, home)
    assert (report.error_type, report.message) == ("LookupError", "nothing there")
    assert report.details["logged"] == "could not look it up"
    assert "the cause" in str(report.stack)


def test_what_is_reported_already_or_comes_from_reporting_itself_is_left_out(
    reporter: ErrorReporter, log: logging.Logger, home: Path
) -> None:
    log.error("told", extra={REPORTED: True})
    OWN_WORK.on = True
    log.error("while reporting")
    OWN_WORK.on = False
    own = logging.getLogger("tandem.reporting")
    own.addHandler(log.handlers[0])
    own.error("its own")
    own.removeHandler(log.handlers[0])
    assert reporter.swallowed == 2
    assert told(reporter, home) == []


def test_a_record_that_cannot_be_shown_is_told_as_well_as_it_goes(
    reporter: ErrorReporter, log: logging.Logger, home: Path
) -> None:
    for handler in log.handlers:
        handler.handle(log.makeRecord(log.name, logging.ERROR, "a.py", 1, "two of %s and %s", ("one",), None))
    log.error("with a stack", stack_info=True)
    first, second = told(reporter, home)
    assert first.message == "two of %s and %s ('one',)"
    assert "test_a_record_that_cannot_be_shown" in str(second.stack)


def test_everything_that_nobody_caught_is_reported_and_goes_on_as_before(
    reporter: ErrorReporter, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: before.append(kind.__name__))
    monkeypatch.setattr(threading, "excepthook", lambda args: before.append(args.exc_type.__name__))
    undo = report_everything(reporter)
    assert process_reporter() is reporter

    def fail() -> None:
        raise OSError("in a thread")

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    for kind in (ValueError, KeyboardInterrupt):
        try:
            raise kind("at the end")
        except BaseException as error:
            sys.excepthook(kind, error, error.__traceback__)
    logging.getLogger("anything").error("logged")
    undo()
    logging.getLogger("anything").error("not heard")
    assert before == ["OSError", "ValueError", "KeyboardInterrupt"]
    in_thread, at_the_end, logged = told(reporter, home)
    assert in_thread.details["thread"] == "worker"
    assert (at_the_end.error_type, at_the_end.severity) == ("ValueError", "critical")
    assert logged.message == "logged"


async def test_what_a_loop_cannot_hand_to_anyone_is_reported(reporter: ErrorReporter, home: Path) -> None:
    loop = asyncio.get_running_loop()
    heard: list[str] = []
    loop.set_exception_handler(lambda loop, context: heard.append(context["message"]))
    report_from_loop(reporter, loop)

    def fail() -> None:
        raise OSError("in a callback")

    loop.call_soon(fail)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.call_exception_handler({"message": "no exception at all"})
    assert heard[0].startswith("Exception in callback")
    assert heard[1] == "no exception at all"
    (report,) = told(reporter, home)
    assert (report.error_type, report.message) == ("OSError", "in a callback")


PROGRAM = """
import logging
from tandem import ErrorReporter, TandemHandler
from common.reporting.handler import report_uncaught
logging.basicConfig()
for _ in range(2):
    logging.getLogger().addHandler(TandemHandler())
report_uncaught(ErrorReporter("uncaught"))
logging.getLogger("app").error("something is %s", "wrong")
raise RuntimeError("the end")
"""


def test_a_supervised_program_says_what_it_reports_itself(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_SUPERVISED", "boot/program")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    lines = done.stderr.splitlines()
    assert lines.count(REPORTS_ITSELF) == 1
    assert lines[lines.index(REPORTED_NEXT) + 1] == "Traceback (most recent call last):"
    assert done.returncode == 1
    (logged,) = spooled(home, "python")
    (ended,) = spooled(home, "uncaught")
    assert (logged.message, ended.message) == ("something is wrong", "the end")


def test_a_program_by_itself_writes_nothing_but_its_own(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert "[tandem" not in done.stderr
    assert "RuntimeError: the end" in done.stderr


def test_undoing_leaves_no_hook(reporter: ErrorReporter) -> None:
    was = sys.excepthook, threading.excepthook
    report_uncaught(reporter)()
    assert (sys.excepthook, threading.excepthook) == was


class Broken(ErrorReporter):
    """A reporter that does not work at all."""

    def __init__(self) -> None:
        self.asked = 0

    def report(self, key: object, make: object) -> bool:
        self.asked += 1
        raise RuntimeError("broken")


def test_a_reporter_that_does_not_work_stops_nobody() -> None:
    broken = Broken()
    log = logging.getLogger("tests.reporting.broken")
    handler = TandemHandler(broken)
    log.addHandler(handler)
    log.error("heard by nobody")
    log.removeHandler(handler)
    assert broken.asked == 1


def test_what_the_supervisor_is_told_stands_on_standard_error(
    reporter: ErrorReporter, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANDEM_SUPERVISED", "boot/program")
    monkeypatch.setattr("common.reporting.handler._told", set())
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    TandemHandler(reporter)
    TandemHandler(reporter)
    undo = report_uncaught(reporter)
    sys.excepthook(ValueError, ValueError("the end"), None)
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join()
    undo()
    assert capfd.readouterr().err.splitlines() == [REPORTS_ITSELF, REPORTED_NEXT, REPORTED_NEXT]


def test_a_supervisor_that_does_not_read_stops_nobody(
    reporter: ErrorReporter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TANDEM_SUPERVISED", "boot/program")
    monkeypatch.setattr("common.reporting.handler._told", set())
    with (tmp_path / "closed").open("w") as stream:
        monkeypatch.setattr(sys, "__stderr__", stream)
    assert TandemHandler(reporter).level == logging.ERROR
