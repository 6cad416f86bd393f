from __future__ import annotations

from pc2.resource_manager.tasks.lines import Lines, line_of, parts_of


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


def test_lines_of_a_capability_differ_by_model_and_wake_together_or_by_model() -> None:
    lines = Lines()
    with_a, with_b = line_of("say", "a"), line_of("say", "b")
    assert (line_of("say", ""), parts_of("say"), parts_of(with_a)) == ("say", ("say", ""), ("say", "a"))
    for rank, line in enumerate(("say", with_a, with_b)):
        lines.join(f"task-{rank}", line, float(rank))
        lines.stall(line, "it waits")
    assert lines.stalled() == {"say"}
    lines.wake_model("b")
    assert lines.next() == "task-2"
    lines.wake_model("none")
    lines.wake(["say"])
    assert lines.next() == "task-0"
    lines.leave("task-1", with_a)
    lines.leave("task-2", with_b)
    lines.wake_model("b")
    assert (lines._with_model, lines.next()) == ({}, "task-0")


def test_who_is_late_is_counted_in_its_line_until_its_time_comes_or_it_leaves() -> None:
    lines = Lines()
    line = line_of("say", "a")
    for task_id in ("a", "b", "c"):
        lines.delay(task_id, line, 1.0, until=5.0 if task_id == "a" else 9.0)
    assert lines.late[line] == 3
    lines.release(5.0)
    assert (lines.late[line], lines.next()) == (2, "a")
    lines.leave("b", line)
    lines.leave("c", line)
    assert lines.late == {}
