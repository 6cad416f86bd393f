from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json

from common.api.error_bus import StackFrame
from common.telemetry.redaction import HIDDEN, is_secret_name, redact
from pc2.error_bus.samples import (
    DETAILS_CHARS,
    FIRST,
    MESSAGE_CHARS,
    NEWEST,
    OVERLAP_CHARS,
    STACK_CHARS,
    TITLE_CHARS,
    Hiding,
    Sample,
    in_order,
    sample_of,
    title_of,
)  # fmt: skip
from tests.pc2.error_bus.desk import HIDING, report

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=20,
)


def sample(number: int = 0, **fields: Any) -> Sample:
    return sample_of(report(**fields), number, "mainpc", 1_800_000_000.5, HIDING)


def test_a_sample_tells_what_came() -> None:
    told = sample(stack=[StackFrame(file="/a.py", line=3, function="f")], details={"n": 1}, severity="critical").shown()
    assert (told.agent, told.host, told.occurred_at) == ("reader", "mainpc", "2027-01-15T08:00:00.500Z")
    assert (told.severity, told.message, told.details) == ("critical", "no room", {"n": 1})
    assert told.stack == '  File "/a.py", line 3, in f'


def test_secrets_are_kept_nowhere() -> None:
    details = {"password": "x y", "hunter2": ["hunter2", {"deep": "hunter2"}], "none": {"password": None}}
    kept = sample(message="by hunter2", stack="with hunter2", details=details)
    assert b"hunter2" not in json.encode(kept)
    assert kept.details["password"] == "[hidden]"
    assert kept.details["none"] == {"password": None}


def test_a_secret_across_a_cut_leaves_no_half() -> None:
    kept = sample(message="x" * (MESSAGE_CHARS - 3) + "hunter2" + "y" * 100)
    assert "hun" not in kept.message
    kept = sample(stack="x" * (STACK_CHARS // 4 - 3) + "hunter2" + "y" * STACK_CHARS)
    assert "hun" not in kept.stack


def test_a_title_is_the_masked_message_or_what_the_report_says_itself() -> None:
    assert title_of(report(message="no room for 3 files"), HIDING) == "no room for <n> files"
    assert title_of(report(message="no room", fingerprint="payments"), HIDING) == "payments"
    assert len(title_of(report(message="x" * 5_000), HIDING)) == TITLE_CHARS


def test_a_secret_with_digits_in_it_leaves_nothing_in_a_title() -> None:
    hiding = Hiding(redact, is_secret_name, HIDDEN)
    key = "sk-abcd1234efgh5678ijkl9012"
    for message in (f"refused: {key}", "x" * (TITLE_CHARS - 8) + f" {key}"):
        assert "abcd" not in title_of(report(message=message), hiding)
    assert title_of(report(message=f"refused: {key}, 3 times"), hiding) == f"refused: {HIDDEN}, <n> times"


def test_a_long_message_is_cut_and_of_a_long_stack_both_ends_are_kept() -> None:
    kept = sample(message="m" * 100_000, stack="first" + "s" * 100_000 + "last")
    assert kept.message == "m" * MESSAGE_CHARS + "..."
    assert kept.stack.startswith("first")
    assert kept.stack.endswith("last")
    assert f"... {100_009 - STACK_CHARS} characters are left out ..." in kept.stack


def test_details_of_any_shape_are_cut_and_say_so() -> None:
    wide = sample(details={str(n): n for n in range(100_000)}).details
    assert wide["..."].endswith(" more")
    long = sample(details={"list": list(range(100_000))}).details["list"]
    assert long[-1].startswith("... ")
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"d": deep, "l": [[[[[[[[1]]]]]]]]}
    shown = json.encode(sample(details=deep).details)
    assert b"<2 fields>" in shown
    assert b"<1 items>" in shown


def test_what_is_no_json_is_told_by_its_kind() -> None:
    details = sample(details={"raw": b"abc", "view": memoryview(b"ab"), "huge": 2**60, "kind": {1}}).details
    assert details == {"raw": "<3 bytes>", "view": "<2 bytes>", "huge": str(2**60), "kind": "{1}"}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), JSON))
def test_any_details_become_bounded_json(details: dict[str, Any]) -> None:
    kept = sample(details=details)
    assert len(json.encode(kept.details)) <= 16 * DETAILS_CHARS
    assert kept.chars() < MESSAGE_CHARS + STACK_CHARS + OVERLAP_CHARS + 16 * DETAILS_CHARS


def test_the_first_keep_their_places_and_of_the_newest_each_takes_the_oldest_ones() -> None:
    places = [sample(number).place for number in range(FIRST + 2 * NEWEST)]
    assert places == [*range(FIRST + NEWEST), *range(FIRST, FIRST + NEWEST)]
    told = in_order([sample(9, message="9"), sample(0, message="0"), sample(5, message="5")])
    assert [one.message for one in told] == ["0", "5", "9"]
