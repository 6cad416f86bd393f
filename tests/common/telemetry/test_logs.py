from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.telemetry.logs import LINE_BYTES, TRACE, JsonFormatter, JsonLines, configure
from common.telemetry.redaction import HIDDEN

LOG = logging.getLogger("tandem.tests.logs")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    level, stream = root.level, io.StringIO()
    lines = configure("CoreOrchestrator", "mainpc", stream=stream)
    yield stream
    root.removeHandler(lines)
    root.setLevel(level)


def only(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    entry: dict[str, Any] = json.loads(line)
    return entry


class Sour:
    """A value that does not let itself be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_line_says_when_where_and_what(stream: io.StringIO) -> None:
    LOG.warning("agent %s left", "speech")
    entry = only(stream)
    assert entry.pop("at").endswith("Z")
    assert entry == {
        "level": "warning",
        "logger": "tandem.tests.logs",
        "message": "agent speech left",
        "service": "CoreOrchestrator",
        "host": "mainpc",
    }


def test_times_are_rfc_3339_in_utc_with_milliseconds() -> None:
    record = logging.makeLogRecord({"created": 1_769_860_800.1234, "msg": "x"})
    assert json.loads(JsonFormatter("s", "h").format(record))["at"] == "2026-01-31T12:00:00.123Z"


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    LOG.debug("quiet")
    assert stream.getvalue() == ""


def test_an_error_brings_its_type_its_message_and_its_stack(stream: io.StringIO) -> None:
    try:
        raise ValueError("password=hunter22 is wrong")
    except ValueError:
        LOG.exception("it failed")
    error = only(stream)["error"]
    assert error["type"] == "ValueError"
    assert error["message"] == f"password={HIDDEN} is wrong"
    assert "test_logs.py" in error["stack"]
    assert "hunter22" not in stream.getvalue()


def test_no_error_under_way_means_no_error_field(stream: io.StringIO) -> None:
    LOG.handle(logging.makeLogRecord({"msg": "none", "levelno": logging.ERROR, "exc_info": (None, None, None)}))
    assert "error" not in only(stream)


def test_a_stack_is_shown_when_asked_for(stream: io.StringIO) -> None:
    LOG.info("here", stack_info=True)
    assert "test_logs.py" in only(stream)["stack"]


def test_a_line_carries_the_trace_of_its_request(stream: io.StringIO) -> None:
    token = TRACE.set("4bf92f3577b34da6")
    LOG.info("one")
    TRACE.reset(token)
    LOG.info("two", extra={"trace": "given"})
    one, two = map(json.loads, stream.getvalue().splitlines())
    assert (one["trace"], two["trace"]) == ("4bf92f3577b34da6", "given")
    assert "extra" not in two


def test_extras_stay_typed_and_secrets_among_them_are_hidden(stream: io.StringIO) -> None:
    extra = {
        "bytes": 10,
        "share": 0.5,
        "big": 2**70,
        "nan": float("nan"),
        "ok": True,
        "none": None,
        "api_key": "abc",
        "no_token": None,
        "nested": {"Password": ["a"], "cards": ["mainpc:0", {1}], "text": "token=abc"},
        "deep": {"a": {"b": {"c": {"d": {}}}}},
        "sour": Sour(),
    }
    LOG.info("x", extra=extra)
    shown = only(stream)["extra"]
    assert shown == {
        "bytes": 10,
        "share": 0.5,
        "big": str(2**70),
        "nan": "nan",
        "ok": True,
        "none": None,
        "api_key": HIDDEN,
        "no_token": None,
        "nested": {"Password": HIDDEN, "cards": ["mainpc:0", [1]], "text": f"token={HIDDEN}"},
        "deep": {"a": {"b": {"c": "{'d': {}}"}}},
        "sour": "<Sour that cannot be shown>",
    }


def test_secrets_in_arguments_are_hidden(stream: io.StringIO) -> None:
    LOG.info("request %s of %s", {"_token": "abc123"}, "Authorization: Bearer abc123")
    assert "abc123" not in stream.getvalue()


def test_one_record_is_one_line_whatever_it_holds(stream: io.StringIO) -> None:
    LOG.info("two\nlines\r\n\u2028\x00\x85", extra={"more\n": "a\nb"})
    assert stream.getvalue().count("\n") == 1
    assert only_message(stream) == "two\nlines\r\n\u2028\x00\x85"


def only_message(stream: io.StringIO) -> str:
    message: str = json.loads(stream.getvalue())["message"]
    return message


def test_lone_surrogates_are_spelt_out(stream: io.StringIO) -> None:
    LOG.info("bad \udc80 byte")
    assert only(stream)["message"] == "bad \\udc80 byte"


@pytest.mark.parametrize("args", [("x",), (Sour(),), ({"a": Sour()},)])
def test_arguments_that_do_not_fit_are_shown_as_they_are(args: tuple[object, ...]) -> None:
    line = JsonFormatter("s", "h").format(logging.makeLogRecord({"msg": "no %d place %s", "args": args}))
    assert json.loads(line)["message"].startswith("no %d place %s")


def test_a_record_without_a_name_or_a_level_is_shown_all_the_same() -> None:
    entry = json.loads(JsonFormatter("s", "h").format(logging.makeLogRecord({"name": None, "levelname": None})))
    assert (entry["logger"], entry["level"]) == ("None", "none")


def test_a_record_that_cannot_be_shown_costs_only_itself() -> None:
    record = logging.makeLogRecord({"msg": "x", "exc_info": 7, "name": "tandem"})
    entry = json.loads(JsonFormatter("s", "h").format(record))
    assert entry["message"] == "a record that cannot be shown: TypeError"


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("text", ["x", "é", "🦉"])
def test_a_line_is_bounded_and_keeps_what_matters_most(text: str, unicode: bool) -> None:
    formatter = JsonFormatter("s", "h", unicode=unicode)
    try:
        raise ValueError(text * 100_000)
    except ValueError as error:
        fields = {
            "msg": text * 100_000,
            "exc_info": (ValueError, error, error.__traceback__),
            "stack_info": text * 50_000,
        }
    record = logging.makeLogRecord(fields | {f"extra{n}": text * 5_000 for n in range(50)})
    line = formatter.format(record)
    assert len(line.encode()) < LINE_BYTES
    entry = json.loads(line)
    assert entry["cut"] is True
    assert entry["message"].startswith(text * 100)
    assert entry["error"]["type"] == "ValueError"


def test_extras_go_before_the_message_does() -> None:
    record = logging.makeLogRecord({"msg": "m" * 3000, "blob": ["x" * 5000] * 10})
    entry = json.loads(JsonFormatter("s", "h").format(record))
    assert entry["message"] == "m" * 3000
    assert "extra" not in entry


def test_a_message_without_an_error_can_be_cut_too() -> None:
    record = logging.makeLogRecord({"msg": "é" * 100_000})
    entry = json.loads(JsonFormatter("s", "h", unicode=False).format(record))
    assert entry["message"].startswith("é")
    assert entry["cut"] is True


@given(st.text(), st.dictionaries(st.text(), st.none() | st.integers() | st.floats() | st.binary() | st.text()))
def test_any_record_is_one_valid_line(message: str, extra: dict[str, object]) -> None:
    record = logging.makeLogRecord({"msg": message, "extra_field": extra})
    line = JsonFormatter("s", "h").format(record)
    assert "\n" not in line
    json.loads(line)


def test_a_stream_that_is_not_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    lines = JsonLines(io.TextIOWrapper(raw, encoding="ascii"), "s", "h")
    lines.handle(logging.makeLogRecord({"msg": "Grüße"}))
    lines.flush()
    assert json.loads(raw.getvalue())["message"] == "Grüße"


def test_a_stream_that_takes_nothing_is_counted_and_stops_nobody() -> None:
    lines = JsonLines(io.StringIO(), "s", "h")
    lines.stream.close()
    lines.handle(logging.makeLogRecord({"msg": "x"}))
    assert lines.lost == 1


def test_configuring_again_replaces_and_an_unknown_level_is_refused(stream: io.StringIO) -> None:
    again = io.StringIO()
    lines = configure("Other", "pc2", stream=again, level="debug")
    try:
        LOG.debug("once")
    finally:
        logging.getLogger().removeHandler(lines)
    assert stream.getvalue() == ""
    assert only(again)["service"] == "Other"
    with pytest.raises(ValueError, match="LOUD"):
        configure("x", "y", level="loud")


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    level = root.level
    lines = configure("s", "h")
    LOG.info("seen")
    root.removeHandler(lines)
    root.setLevel(level)
    assert json.loads(capsys.readouterr().err)["message"] == "seen"
