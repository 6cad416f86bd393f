from __future__ import annotations

import logging

import pytest

from common.supervisor.last_words import last_line, telling
from common.telemetry.logs import JsonFormatter


def logged(level: int, message: str) -> str:
    return JsonFormatter("worker", "mainpc").format(logging.LogRecord("a.b", level, "", 1, message, None, None))


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_a_record_that_warns_of_nothing_is_no_reason_for_an_end(level: int) -> None:
    quiet = logged(level, 'model "m" loaded')
    assert telling(["boom", quiet, " "]) == ("boom",)
    assert last_line(["boom", quiet]) == "boom"
    assert last_line([quiet[:-20]]) == last_line([quiet]) == last_line([]) == ""


def test_of_a_record_that_warns_the_message_is_told_also_where_the_line_is_cut() -> None:
    record = logged(logging.ERROR, 'no file "w.gguf"\nat all: ' + "x" * 900)
    assert last_line([record]).startswith('no file "w.gguf" at all: xx')
    assert last_line([record[:200]]).startswith('no file "w.gguf" at all: x')
    assert telling([record]) == (record,)


def test_what_only_looks_like_a_record_is_told_as_it_is() -> None:
    for line in ('{"level":"info"}', "{broken", '{"at":"","level":"error","logger":"","message":"\\u00'):
        assert last_line([line]) == line
