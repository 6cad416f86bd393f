from __future__ import annotations

from pc2.resource_manager.tasks.lines import Lines


def test_of_the_lines_that_are_awake_the_lowest_rank_is_next() -> None:
    lines = Lines()
    assert lines.next() is None
    lines.join("a", "say", 5.0)
    lines.join("b", "sing", 3.0)
    assert lines.next() == "b"
    lines.join("c", "say", 1.0)
    assert lines.next() == "c"
    lines.leave("c", "say")
    assert lines.next() == "b"
    lines.leave("b", "sing")
    assert lines.next() == "a"


def test_a_line_that_stalls_is_passed_over_until_it_is_woken() -> None:
    lines = Lines()
    lines.join("a", "say", 1.0)
    lines.join("b", "sing", 3.0)
    lines.stall("say", "nobody")
    lines.join("c", "say", 0.5)
    assert lines.next() == "b"
    lines.wake(["say", "dance"])
    assert lines.next() == "c"
    lines.stall("say", "nobody")
    lines.leave("a", "say")
    lines.leave("c", "say")
    assert (lines.stalls, lines.next()) == ({}, "b")
