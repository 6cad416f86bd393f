"""docs/ARCHITECTURE.md against the tree."""

from __future__ import annotations

import re

import pytest

from common.api import supervisor
from common.api.catalog import CORE_ORCHESTRATOR, SERVICES
from scripts.floors import FLOORS, floor_of, table_in
from tests.docs.documents import ROOT, rows, section

ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"


def test_every_room_is_told_and_no_other() -> None:
    told = {row[0].strip("`") for row in rows(section(ARCHITECTURE, "Rooms"))}
    rooms = {
        str(folder.parent.relative_to(ROOT))
        for package in ("common", "main_pc", "pc2")
        for folder in (ROOT / package).glob("*/__init__.py")
    }
    assert told == rooms | {"tandem"}


def test_the_ports_are_the_catalogs() -> None:
    told = {(row[0], row[1]): row[2:5] for row in rows(section(ARCHITECTURE, "Processes and ports"))}
    for spec in SERVICES:
        if not spec.port:
            continue
        host = "MainPC" if spec is CORE_ORCHESTRATOR else "PC2"
        assert told[spec.name, host] == [str(spec.port), str(spec.events_port), str(spec.health_port)]
    for host, ports in supervisor.PORTS.items():
        shown = {"mainpc": "MainPC", "pc2": "PC2"}[host]
        assert told["supervisor", shown] == [str(port) for port in ports]


@pytest.mark.parametrize("row", rows(section(ARCHITECTURE, "Floors")), ids=lambda row: row[0])
def test_a_floor_holds_what_is_said_to_stand_on_it(row: list[str]) -> None:
    number, name = row[0].split()
    assert FLOORS[int(number)] == name
    table = table_in(ROOT / "pyproject.toml")
    named = [word.replace("/", ".") for word in row[1].split("`")[1::2] if "/" in word]
    assert [module for module in named if floor_of(module, table) != name] == []


BREAKS = rows(section(ARCHITECTURE, "What breaks, and what then"))


@pytest.mark.parametrize("row", BREAKS, ids=lambda row: row[0][:40])
def test_what_is_said_to_be_shown_names_the_test_that_shows_it(row: list[str]) -> None:
    assert (ROOT / row[2].strip("`")).is_file()
    assert "def test_" in (ROOT / row[2].strip("`")).read_text()


@pytest.mark.parametrize(
    ("test", "bound", "sentence"),
    [
        ("test_faults", "RECOVERY_S", "well within {:.0f} s of the fault's end"),
        ("test_faults", "LONGEST_S", "no call lasts longer than {:.0f} s"),
        ("test_prometheus", "PATIENCE_S", "for what broke within {:.0f} s"),
    ],
)
def test_a_bound_is_the_one_of_the_test_that_shows_it(test: str, bound: str, sentence: str) -> None:
    file = ROOT / "tests" / "system" / f"{test}.py"
    found = re.search(rf"^{bound} = ([\d.]+)$", file.read_text(), re.MULTILINE)
    assert found, f"{file.name} states no {bound}"
    (told,) = [row[1] for row in BREAKS if row[2].strip("`") == str(file.relative_to(ROOT))]
    assert sentence.format(float(found[1])) in told
