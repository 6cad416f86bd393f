from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.api.error_bus import StackFrame
from pc2.error_bus.fingerprint import SHORT_CHARS, fingerprint
from tests.pc2.error_bus.desk import report

STACK = 'Traceback (most recent call last):\n  File "/srv/a/b.py", line 3, in f\nValueError: no'


def test_groups_of_version_one_are_these_for_ever() -> None:
    """These must never change: a changed rule is a new version."""
    assert fingerprint(report("ValueError", "no room for 3 files")) == (
        "1:70e18438179e9915f0e9",
        "message",
    )
    assert fingerprint(report("ValueError", "no room for 3 files", stack=STACK)) == (
        "1:ce31502f3d7ff6e744b9",
        "stack",
    )
    assert fingerprint(report(fingerprint="payments")) == ("1:c96f5dc2c9db0b1ef244", "explicit")


def test_an_explicit_fingerprint_goes_before_everything() -> None:
    one = fingerprint(report("ValueError", "a", stack=STACK, fingerprint="x"))
    assert one == fingerprint(report("KeyError", "b", fingerprint="x"))
    assert one != fingerprint(report(fingerprint="y"))


def test_with_a_stack_the_message_does_not_count_and_the_type_does() -> None:
    one = fingerprint(report("ValueError", "a", stack=STACK)).group_id
    assert one == fingerprint(report("ValueError", "b", stack=STACK.replace("line 3", "line 5"))).group_id
    assert one != fingerprint(report("KeyError", "a", stack=STACK)).group_id
    assert one != fingerprint(report("ValueError", "a", stack=STACK.replace("in f", "in g"))).group_id


def test_a_stack_without_frames_leaves_type_and_message() -> None:
    one = fingerprint(report("ValueError", "no 1", stack="nothing to see"))
    assert one == fingerprint(report("ValueError", "no 2"))
    assert one.grouped_by == "message"
    assert one.group_id != fingerprint(report("KeyError", "no 1")).group_id


def test_agent_host_time_and_severity_are_no_part_of_it() -> None:
    one = report(agent="a", host="mainpc", severity="error", occurred_at="2026-01-01T00:00:00Z", report_id="1", count=3)
    assert fingerprint(one) == fingerprint(report(agent="b", host="pc2", severity="critical"))


def test_text_and_frames_of_one_stack_are_one_group() -> None:
    frames = [StackFrame(file="/elsewhere/a/b.py", function="f", line=9)]
    assert fingerprint(report(stack=STACK)).group_id == fingerprint(report(stack=frames)).group_id


def test_long_texts_are_judged_like_short_ones() -> None:
    padded = STACK + "\n" + " " * SHORT_CHARS
    assert fingerprint(report(stack=STACK)) == fingerprint(report(stack=padded))
    long = fingerprint(report(message="word " * 10_000))
    assert long == fingerprint(report(message="word " * 11_000))


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1), st.text(), st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_every_report_has_one_fingerprint_however_strange(
    error_type: str, message: str, stack: str, explicit: str, own_code: list[str]
) -> None:
    strange = report(error_type, message, stack=stack, fingerprint=explicit, own_code=own_code)
    once = fingerprint(strange)
    assert once == fingerprint(strange)
    assert once.group_id.startswith("1:")
    assert len(once.group_id) == 22


def test_lone_surrogates_are_no_trouble() -> None:
    assert fingerprint(report(message="\ud800")).group_id != fingerprint(report(message="\udfff")).group_id
