from __future__ import annotations

import pytest

from common.reporting.ends import End, report_of_end, report_of_lateness, report_of_traceback
from common.reporting.stderr import Seen

SEEN = Seen("ValueError", "bad", "Traceback\n  frame\nValueError: bad", told=False)
TAIL = ("Traceback", "  frame", "ValueError: bad")


def end(code: int | None, **fields: object) -> End:
    return End("reader", "mainpc", "2026-01-31T12:00:00Z", code, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("quiet", [end(0), end(None), end(-15, wanted=True), end(1, wanted=True)])
def test_an_end_that_was_wanted_or_well_is_no_error(quiet: End) -> None:
    assert report_of_end(quiet, None) is None


@pytest.mark.parametrize(
    ("ended", "error_type", "message", "problem"),
    [
        (end(3), "ProcessExited", "reader exited with 3", "reader exited with 3"),
        (
            end(-11, signal="SIGSEGV"),
            "KilledBySignal",
            "reader was killed by SIGSEGV, not by its supervisor",
            "reader was killed by SIGSEGV",
        ),
        (
            end(-9, signal="SIGKILL", out_of_memory=True),
            "OutOfMemory",
            "reader was killed by SIGKILL: mainpc ran out of memory",
            "reader was killed by SIGKILL: out of memory",
        ),
        (
            end(None, reason="could not be launched: no such file"),
            "NotLaunched",
            "reader could not be launched: no such file",
            "reader was not launched",
        ),
    ],
)
def test_an_unasked_end_says_how_it_came(ended: End, error_type: str, message: str, problem: str) -> None:
    report = report_of_end(ended, None)
    assert report is not None
    assert (report.error_type, report.message, report.severity) == (error_type, message, "critical")
    assert report.fingerprint == problem
    assert (report.agent, report.host) == ("reader", "mainpc")


def test_every_end_of_one_kind_is_one_problem() -> None:
    first = report_of_end(end(-11, signal="SIGSEGV", tail=("one",)), None)
    second = report_of_end(end(-11, signal="SIGSEGV", tail=("two",)), None)
    other = report_of_end(end(-6, signal="SIGABRT"), None)
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert first.details == {"exit_code": -11, "signal": "SIGSEGV", "stderr_tail": ["one"]}


def test_a_process_that_is_not_ready_in_time_is_one_problem_whatever_it_answered() -> None:
    first = report_of_lateness("reader", "mainpc", "", "not ready within 5 s: no answer", ("slow",))
    second = report_of_lateness("reader", "mainpc", "", "not ready within 5 s: refused", ())
    assert (first.message, first.details) == ("reader was not ready within 5 s: no answer", {"stderr_tail": ["slow"]})
    assert (second.fingerprint, second.details) == (first.fingerprint, {})
    assert first.fingerprint == "reader was not ready in time"


def test_an_exception_that_ended_the_process_is_told_once() -> None:
    assert report_of_end(end(1, tail=TAIL), SEEN) is None
    assert report_of_end(end(1, tail=("quite", "another", "thing")), SEEN) is not None
    assert report_of_end(end(1, tail=TAIL), None) is not None


def test_a_crash_shows_the_traceback_that_came_last() -> None:
    crashed = report_of_end(end(-6, signal="SIGABRT", tail=TAIL), SEEN)
    elsewhere = report_of_end(end(-6, signal="SIGABRT", tail=("x",)), SEEN)
    assert crashed is not None
    assert elsewhere is not None
    assert (crashed.stack, elsewhere.stack) == (SEEN.stack, "")


def test_a_traceback_on_standard_error_is_the_agents_error() -> None:
    alone = report_of_traceback("reader", "mainpc", "", SEEN)
    last = report_of_traceback("reader", "mainpc", "", SEEN, end(1, tail=("ValueError: bad",)))
    assert (alone.error_type, alone.message, alone.stack) == ("ValueError", "bad", SEEN.stack)
    assert (alone.severity, alone.details) == ("error", {"source": "stderr"})
    assert (last.severity, last.details["exit_code"]) == ("critical", 1)
