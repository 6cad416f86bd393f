"""What becomes of models when the startup file is read anew."""

from __future__ import annotations

import pytest

from common.errors import NotFound
from common.supervisor.models.instructions import Changed
from common.supervisor.models.managed import DISABLED, Managed
from tests.common.supervisor.models.desk import GIB, Desk, model


def test_what_is_told_of_an_engine_after_a_reload_took_its_entry_away_is_about_nobody() -> None:
    desk = Desk(model("a"))
    desk.roster.is_away("gone", "gone is not running")
    assert [each.model.name for each in desk.roster] == ["a"]
    desk.ask("a")


def test_a_reload_takes_in_new_models_and_touches_nothing_that_runs() -> None:
    desk = Desk(model("a"), model("b"), model("c"))
    desk.loaded("a")
    kept = desk.managed("a").model
    desk.roster.reload([model("b", 5), model("d"), model("e", enabled=False)], desk.now)
    assert [each.model.name for each in desk.roster] == ["a", "b", "d"]
    assert len(desk.roster) == 3
    assert desk.managed("a").model is kept
    assert desk.managed("b").model.vram == 5 * GIB
    desk.roster.reload([model("a", 6, aliases=["new"]), model("d")], desk.now)
    assert desk.managed("a").model is kept
    desk.roster.leaving("a", desk.now)
    desk.roster.ended("a", desk.now)
    assert desk.managed("new").model.vram == 6 * GIB


def test_a_model_that_the_file_names_no_more_goes_with_its_engine_or_the_last_who_waits() -> None:
    desk = Desk(model("a"), model("b"))
    desk.loaded("a")
    desk.ask("b")
    desk.step()
    desk.grant("b")
    desk.roster.failed("b", "no", desk.now)
    desk.roster.reload([], desk.now)
    assert [each.model.name for each in desk.roster] == ["a", "b"]
    desk.roster.leaving("a", desk.now)
    desk.roster.ended("a", desk.now)
    assert Changed("a", "expiring") not in desk.step()
    with pytest.raises(NotFound):
        desk.ask("a")


def test_a_disabled_entry_is_told_of_as_such_unless_its_engine_still_runs() -> None:
    desk = Desk(model("a"), model("b", enabled=False))
    desk.loaded("a")
    assert [each.name for each in desk.roster.disabled] == ["b"]
    desk.roster.reload([model("a", enabled=False), model("b", enabled=False)], desk.now)
    assert [each.name for each in desk.roster.disabled] == ["b"]
    assert Managed(model("b", enabled=False), desk.now).problem == DISABLED
    desk.roster.unused("nobody's", desk.now)
    desk.roster.leaving("a", desk.now)
    desk.roster.ended("a", desk.now)
    assert [each.name for each in desk.roster.disabled] == ["a", "b"]
    with pytest.raises(NotFound, match="a is disabled on h"):
        desk.ask("a")
