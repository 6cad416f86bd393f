from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.reporting.stderr import (
    MOST_LINES,
    REPORTED_NEXT,
    REPORTS_ITSELF,
    STRANGE_LINES,
    Seen,
    StderrReader,
)

SIMPLE = [
    "Traceback (most recent call last):",
    '  File "a.py", line 3, in <module>',
    "    f()",
    "ValueError: bad value",
]
CAUSED = [
    *SIMPLE,
    "",
    "The above exception was the direct cause of the following exception:",
    "",
    *SIMPLE[:-1],
    "KeyError: 7",
]


def read(lines: list[str], reader: StderrReader | None = None) -> list[Seen]:
    reader = reader or StderrReader()
    found = [seen for line in lines if (seen := reader.feed(line)) is not None]
    rest = reader.rest()
    return [*found, rest] if rest is not None else found


def types(lines: list[str]) -> list[str]:
    return [seen.error_type for seen in read(lines)]


def test_a_traceback_is_told_whole_with_its_type_and_message() -> None:
    (seen,) = read(["before", *SIMPLE, "after"])
    assert seen == Seen("ValueError", "bad value", "\n".join(SIMPLE), told=False)


def test_causes_belong_to_the_error_they_caused() -> None:
    (seen,) = read(CAUSED)
    assert (seen.error_type, seen.message) == ("KeyError", "7")
    assert "bad value" in seen.stack


def test_two_tracebacks_with_a_blank_line_between_are_two() -> None:
    assert types([*SIMPLE, "", *SIMPLE[:-1], "OSError"]) == ["ValueError", "OSError"]
    assert types([*SIMPLE, *SIMPLE]) == ["ValueError", "ValueError"]


def test_lines_of_others_in_its_midst_are_left_out() -> None:
    mixed = [SIMPLE[0], "INFO worker ready", SIMPLE[1], "ERROR: disk", SIMPLE[2], "done: 7", SIMPLE[3]]
    (seen,) = read(mixed)
    assert seen.stack == "\n".join(SIMPLE)


def test_a_level_of_a_log_is_no_type() -> None:
    (seen,) = read([*SIMPLE[:-1], "ERROR: not this one", "zmq.error.Again: this one"])
    assert seen.error_type == "zmq.error.Again"


def test_a_prefix_of_a_log_is_taken_off_and_lines_without_it_are_others() -> None:
    lines = [f"[worker-1] {line}" for line in SIMPLE]
    (seen,) = read([lines[0], "[worker-2] hello", lines[1], "", lines[2], lines[3], "[worker-1] next"])
    assert seen.stack.replace("\n\n", "\n") == "\n".join(SIMPLE)
    (logged,) = read([f"ERROR:root:{SIMPLE[0]}", *SIMPLE[1:]])
    assert logged.stack == "\n".join(SIMPLE)


def test_a_traceback_that_never_ends_is_given_up() -> None:
    assert types([*SIMPLE[:-1], *["noise of others"] * (STRANGE_LINES + 1), SIMPLE[3]]) == []
    assert types(SIMPLE[:-1]) == []
    assert types([*CAUSED[:6], *["noise"] * (STRANGE_LINES + 1)]) == ["ValueError"]
    assert types(CAUSED[:6]) == ["ValueError"]


def test_a_long_one_loses_its_middle() -> None:
    (seen,) = read([SIMPLE[0], *[f"  frame {number}" for number in range(5_000)], SIMPLE[3]])
    lines = seen.stack.splitlines()
    assert len(lines) <= MOST_LINES
    assert (lines[0], lines[1], lines[-1]) == (SIMPLE[0], "  frame 0", SIMPLE[3])
    assert "  ..." in lines


def test_an_error_without_a_frame_is_none() -> None:
    assert types([SIMPLE[0], SIMPLE[3]]) == []


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "SystemExit"])
def test_being_told_to_stop_is_no_error(name: str) -> None:
    assert types([*SIMPLE[:-1], name]) == []


def test_what_a_process_reported_itself_is_marked() -> None:
    reader = StderrReader()
    first, second = read([REPORTED_NEXT, *SIMPLE, "x", *SIMPLE], reader)
    assert (first.told, second.told) == (True, False)
    (between,) = [seen for line in [*SIMPLE, REPORTED_NEXT] if (seen := reader.feed(line)) is not None]
    assert not between.told
    assert reader.last == between
    (own,) = read([REPORTS_ITSELF, *SIMPLE])
    assert own.told


def test_real_tracebacks_of_this_python_are_read() -> None:
    program = """
import sys, threading, traceback
def fail():
    try:
        1 / 0
    except ArithmeticError as error:
        raise LookupError("two\\nlines") from error
thread = threading.Thread(target=fail)
thread.start()
thread.join()
try:
    raise ExceptionGroup("many", [ValueError(1), ExceptionGroup("inner", [TypeError(2)])])
except Exception:
    traceback.print_exc()
print("between", file=sys.stderr)
class Odd(Exception): pass
raise Odd
"""
    command = [sys.executable, "-I", "-c", program]
    told = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, timeout=120).stderr
    seen = read(told.split("\n"))
    assert [(one.error_type, one.message) for one in seen] == [
        ("LookupError", "two"),
        ("ExceptionGroup", "many (2 sub-exceptions)"),
        ("Odd", ""),
    ]
    assert "ZeroDivisionError" in seen[0].stack
    assert "TypeError: 2" in seen[1].stack


def test_a_group_is_over_with_the_first_line_of_others_or_another_traceback() -> None:
    group = [
        "  + Exception Group Traceback (most recent call last):",
        '  |   File "a.py", line 1',
        "  | ExceptionGroup: many (1 sub-exception)",
    ]
    assert types([*group, "another line"]) == ["ExceptionGroup"]
    assert types([*group, *SIMPLE]) == ["ExceptionGroup", "ValueError"]
    assert types([*group[:2], "another line"]) == []


@given(
    st.lists(
        st.one_of(
            st.sampled_from([*CAUSED, "  + Exception Group Traceback (most recent call last):"]), st.text(max_size=20)
        )
    )
)
def test_any_lines_are_borne(lines: list[str]) -> None:
    reader = StderrReader()
    for seen in read(lines, reader):
        assert seen.error_type
        assert len(seen.stack.splitlines()) <= MOST_LINES + 20
    assert not reader.open
