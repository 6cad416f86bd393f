from __future__ import annotations

from pathlib import Path

import pytest

from scripts.floors import faults, floor_of, room_of, table_in

TABLE = table_in(Path(__file__).resolve().parents[2] / "pyproject.toml")


@pytest.mark.parametrize(
    ("module", "floor"),
    [
        ("common.errors", "words"),
        ("common.api.leases", "words"),
        ("common.wire.codec", "rules"),
        ("common.config.schema", "rules"),
        ("common.config.loader", "adapters"),
        ("common.store.protocol", "rules"),
        ("common.store.sqlite", "adapters"),
        ("common.supervisor.graph", "rules"),
        ("common.supervisor.processes", "shells"),
        ("main_pc.core_orchestrator.registry", "rules"),
        ("main_pc.core_orchestrator.service", "shells"),
        ("main_pc.__main__", "doors"),
        ("pc2", "doors"),
        ("tandem.commands.run", "doors"),
    ],
)
def test_the_closest_pattern_gives_the_floor(module: str, floor: str) -> None:
    assert floor_of(module, TABLE) == floor


def test_what_no_pattern_names_is_held_to_the_strictest_floor() -> None:
    assert floor_of("common.newcomer", TABLE) == "words"


def test_rooms_are_the_packages_of_a_host() -> None:
    assert room_of("pc2.resource_manager.queue") == "pc2.resource_manager"
    assert room_of("pc2.__main__") is None
    assert room_of("pc2") is None
    assert room_of("common.wire") is None


@pytest.mark.parametrize(
    ("importer", "imported", "said"),
    [
        ("common.wire.codec", "common.transport.sockets", "imports go down only"),
        ("common.errors", "common.wire", "imports go down only"),
        ("common.client", "tandem", "imports go down only"),
        ("common.vram.ledger", "time", "touches the world"),
        ("common.ids", "random", "touches the world"),
        ("main_pc.core_orchestrator.registry", "asyncio", "touches the world"),
        ("pc2.error_bus.service", "pc2.resource_manager.queue", "rooms meet over the wire only"),
        ("main_pc.core_orchestrator.service", "pc2.resource_manager.queue", "rooms meet over the wire only"),
    ],
)
def test_an_import_that_breaks_a_rule_is_named(importer: str, imported: str, said: str) -> None:
    (fault,) = faults([(importer, imported)], TABLE, ["time", "random", "asyncio"])
    assert importer in fault
    assert imported in fault
    assert said in fault


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("common.wire.codec", "common.errors"),
        ("common.wire.codec", "common.wire.frames"),
        ("common.transport.sockets", "asyncio"),
        ("pc2.resource_manager.service", "pc2.resource_manager.queue"),
        ("pc2.__main__", "pc2.resource_manager.service"),
        ("tandem.commands", "main_pc.__main__"),
    ],
)
def test_an_import_downwards_or_beside_is_no_fault(importer: str, imported: str) -> None:
    assert faults([(importer, imported)], TABLE, ["asyncio"]) == []
