from __future__ import annotations

from common.config.document import Document, spell


def test_a_place_that_is_absent_has_the_line_of_what_is_around_it() -> None:
    document = Document("f.yaml", {"a": [1]}, {(): 1, ("a",): 3, ("a", 0): 4})
    assert document.line(("a", 0)) == 4
    assert document.line(("a", 7, "x")) == 3
    assert document.line(("b",)) == 1
    assert Document("f.yaml", None).line(("b",)) == 1


def test_a_problem_reads_as_one_line() -> None:
    document = Document("f.yaml", {}, {("a", 0, "port"): 7})
    assert str(document.problem(("a", 0, "port"), "is wrong", "mend it")) == "f.yaml:7: a[0].port: is wrong (mend it)"
    assert str(document.problem((), "is wrong")) == "f.yaml:1: is wrong"


def test_a_value_is_found_by_its_place_or_not_at_all() -> None:
    document = Document("f.yaml", {"a": [{"b": 5}]})
    assert document.at(("a", 0, "b")) == 5
    assert document.at(("a", 1)) is None
    assert document.at(("a", "b")) is None
    assert document.at(("z",)) is None
    assert document.at(("z", 0)) is None


def test_a_place_is_spelt_with_dots_and_brackets() -> None:
    assert spell(("agents", 0, "limits", "cpus", 3)) == "agents[0].limits.cpus[3]"
