"""docs/ARCHITECTURE.md against the tree."""

from __future__ import annotations

import pytest

from common.api import supervisor
from common.api.catalog import CORE_ORCHESTRATOR, RESOURCE_MANAGER
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
    for spec, host in ((CORE_ORCHESTRATOR, "MainPC"), (RESOURCE_MANAGER, "PC2")):
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
