from __future__ import annotations

from common.config.schema import Agent
from common.supervisor.graph import Graph


def agent(name: str, depends_on: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> Agent:
    return Agent(name=name, command=["x"], depends_on=list(depends_on), after=list(after))


def test_a_process_waits_until_what_it_depends_on_is_ready() -> None:
    graph = Graph("h", [agent("a"), agent("b", ("a",))])
    assert graph.waits_for("a") == []
    assert graph.waits_for("b") == ["a (unknown)"]
    graph.heard("a", "starting")
    assert graph.waits_for("b") == ["a (starting)"]
    graph.heard("a", "ready")
    assert graph.waits_for("b") == []
    graph.heard("a", "crash-looping")
    assert graph.waits_for("b") == ["a (crash-looping)"]


def test_another_host_is_waited_for_until_it_is_heard_of_and_again_when_lost() -> None:
    graph = Graph("h", [agent("a", ("o/x",))])
    assert graph.waits_for("a") == ["o/x (o was not heard of)"]
    graph.heard("o/x", "starting")
    assert graph.waits_for("a") == ["o/x (starting)"]
    graph.heard("o/x", "ready")
    assert graph.waits_for("a") == []
    graph.lost("other")
    assert graph.waits_for("a") == []
    graph.lost("o")
    assert graph.waits_for("a") == ["o/x (o was not heard of)"]


def test_after_waits_only_for_what_is_on_its_way_up() -> None:
    graph = Graph("h", [agent("a"), agent("s"), agent("w", ("s",)), agent("b", after=("a", "w", "o/x"))])
    assert graph.waits_for("b") == []
    graph.heard("a", "starting")
    graph.heard("s", "starting")
    graph.heard("w", "waiting")
    assert graph.waits_for("b") == ["a (starting)", "w (waiting)"]
    graph.heard("a", "crash-looping")
    graph.heard("s", "stopped")
    assert graph.waits_for("b") == []
    graph.heard("o/x", "starting")
    assert graph.waits_for("b") == ["o/x (starting)"]


def test_a_process_both_depended_on_and_followed_is_one_reason() -> None:
    graph = Graph("h", [agent("a"), agent("b", ("a",), ("a",))])
    graph.heard("a", "starting")
    assert graph.waits_for("b") == ["a (starting)"]
    graph.heard("a", "stopped")
    assert graph.waits_for("b") == ["a (stopped)"]


def test_waiting_is_hopeless_behind_what_will_not_come_up_by_itself() -> None:
    graph = Graph("h", [agent("a"), agent("b", ("a",)), agent("c", ("b", "o/x"))])
    for name in "abc":
        graph.heard(name, "waiting")
    assert not graph.hopeless("c")
    graph.heard("a", "crash-looping")
    assert graph.hopeless("b")
    assert graph.hopeless("c")
    graph.heard("b", "starting")
    assert not graph.hopeless("b")
    assert not graph.hopeless("c")


def test_nobody_stops_before_what_came_up_after_it() -> None:
    graph = Graph("h", [agent("a"), agent("b", ("a",)), agent("c", after=("a",)), agent("d")])
    for name in "abc":
        graph.heard(name, "ready")
    assert graph.dependents("a") == ["b", "c"]
    graph.heard("b", "stopped")
    graph.heard("c", "draining")
    assert graph.dependents("a") == ["c"]
    assert graph.dependents("b") == []
    assert graph.dependents("d") == []
