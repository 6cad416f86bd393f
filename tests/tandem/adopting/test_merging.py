from __future__ import annotations

from typing import Any

from common.config.document import Document
from common.config.models import Model
from common.config.schema import Agent, Ports, Startup
from common.config.units import Size
from tandem.adopting.merging import Merged, merge
from tandem.adopting.proposal import Proposal


def adopted(name: str = "m", url: str = "http://127.0.0.1:8000", **fields: Any) -> Model:
    return Model(name=name, engine="vllm", vram=Size(2**30), url=url, **fields)


def started(name: str = "m", program: str = "serve", **fields: Any) -> Model:
    return Model(name=name, engine="openai", vram=Size(2**30), command=[program, "{port}"], **fields)


def merged(there: list[Model], *new: Model) -> Merged:
    agents = [Agent(name="agent", command=["x"])]
    startup = Startup(version=1, host="h", supervisor=Ports(), models=there, agents=agents)
    proposals = [Proposal(each, "src", line) for line, each in enumerate(new, 1)]
    return merge(Document("f", {}), startup, proposals, lambda startup, launched: launched.command[0] != "gone")


def names(found: Merged) -> list[str]:
    return [proposal.model.name for proposal in found.added]


def told(found: Merged) -> list[str]:
    return [f"{note.kind}: {note.message}" for note in found.notes]


def test_what_is_new_is_added_in_its_order() -> None:
    found = merged([started("a")], started("c"), adopted("b", aliases=["bb"]))
    assert names(found) == ["c", "b"]
    assert (found.present, told(found)) == ([], [])


def test_an_engine_that_is_there_under_any_name_is_not_added_again() -> None:
    there = [adopted("x", "http://localhost:8000/v1", upstream="m"), started("fixed", port=9000)]
    found = merged(there, adopted(), adopted("n", "http://127.0.0.1:9000"), adopted("other"))
    assert names(found) == ["other"]
    assert found.present == ["x", "fixed"]
    assert told(found) == []


def test_a_model_of_that_name_stays_as_it_is() -> None:
    found = merged([started(slots=1)], started(slots=2, cards=2))
    assert (names(found), found.present) == ([], ["m"])
    assert told(found) == ["needless: m is there already, with other slots, cards"]
    assert told(merged([started()], started())) == []


def test_two_engines_with_one_name_are_told_apart_by_their_ports() -> None:
    found = merged([started()], adopted(), adopted(url="http://127.0.0.1:8001"), adopted(url="http://127.0.0.1:8001"))
    assert names(found) == ["m@8000", "m@8001"]
    assert found.added[0].model.upstream == "m"
    assert found.present == ["m@8001"]
    taken = merged([started("m"), started("m@8000")], adopted())
    assert told(taken) == ["skipped: m and m@8000 are names already"]


def test_a_name_that_something_else_has_is_told() -> None:
    found = merged([started("a", aliases=["m"])], started(), started("agent"))
    assert names(found) == []
    assert told(found) == ["skipped: m is a name of a already", "skipped: agent is a name of a process already"]


def test_an_alias_that_is_a_name_already_is_left_out() -> None:
    found = merged([started("a", aliases=["x"])], started("b", aliases=["x", "y", "y"]), started("c", aliases=["y"]))
    assert [proposal.model.aliases for proposal in found.added] == [["y"], []]
    assert told(found) == ["left out: x is a name of a already", "left out: y is a name of b already"]


def test_a_program_that_is_not_here_is_written_but_not_used() -> None:
    found = merged([], started(program="gone"), started("n"))
    assert [proposal.model.enabled for proposal in found.added] == [False, True]
    assert told(found) == ["changed: there is no program 'gone' here, so that it is written with enabled: false"]


def test_adopting_twice_adds_nothing() -> None:
    new = [
        started("a", aliases=["x"]),
        started("b", "gone", aliases=["x"]),
        adopted("a"),
        adopted("c", "http://127.0.0.1:1"),
    ]
    once = merged([started("z")], *new)
    twice = merged([started("z"), *(proposal.model for proposal in once.added)], *new)
    assert len(once.added) == 4
    assert names(twice) == []
    assert [note for note in twice.notes if note.kind != "needless"] == []
