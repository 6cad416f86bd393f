from __future__ import annotations

from pc2.resource_manager.tasks.standing import Standing


def test_who_came_last_is_first_whatever_state_and_capability_it_came_to() -> None:
    standing = Standing()
    for task_id, capability in (("a", "say"), ("b", "sing"), ("c", "say")):
        standing.enter(task_id, "queued", capability)
    standing.leave("a", "queued", "say")
    standing.enter("a", "running", "say")
    assert standing.latest(None, "", 9) == ["a", "c", "b"]
    assert standing.latest("queued", "", 9) == ["c", "b"]
    assert standing.latest(None, "say", 1) == ["a"]
    assert (standing.number("queued", "say"), standing.number("done", "say")) == (1, 0)
    assert standing.counts == {"queued": 2, "running": 1}


def test_a_place_that_nobody_is_in_is_not_kept() -> None:
    standing = Standing()
    standing.enter("a", "queued", "say")
    standing.leave("a", "queued", "say")
    assert standing._lines == {}
