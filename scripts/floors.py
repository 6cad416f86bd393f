"""Which floor a module stands on, and whether an import goes where it may.

The table is the one contract of type `floors` in pyproject.toml: each floor lists module patterns, and the pattern that
names a module most closely decides; what no pattern names is held to the strictest floor. The import linter runs
`FloorsContract`; the coverage gate asks `floor_of` which modules need every branch. This file never looks at coverage
and never reads a source file itself.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

FLOORS: Final = ("words", "rules", "adapters", "shells", "doors")
"""From the lowest to the highest; an import goes to the same floor or a lower one."""

PURE: Final = FLOORS[:2]
HOSTS: Final = ("main_pc", "pc2")

Table = Mapping[str, Sequence[str]]


def table_in(pyproject: Path) -> Table:
    """The floors as pyproject.toml lists them."""
    contracts = tomllib.loads(pyproject.read_text())["tool"]["importlinter"]["contracts"]
    return next(contract for contract in contracts if contract["type"] == "floors")


def floor_of(module: str, table: Table) -> str:
    """The floor of the longest pattern that names the module or a package around it; the lowest where no pattern does.

    Of two patterns as long as each other the one with fewer stars is the closer.
    """
    matches = [
        (pattern.count(".") + 1, -pattern.count("*"), floor)
        for floor in FLOORS
        for pattern in table[floor]
        if _covers(pattern, module)
    ]
    return max(matches)[2] if matches else FLOORS[0]


def room_of(module: str) -> str | None:
    """The room of a host that a module belongs to (`pc2.error_bus`), or None outside the hosts' rooms."""
    parts = module.split(".")
    inside = parts[0] in HOSTS and len(parts) > 1 and not parts[1].startswith("__")
    return ".".join(parts[:2]) if inside else None


def faults(imports: Iterable[tuple[str, str]], table: Table, forbidden: Iterable[str]) -> list[str]:
    """One sentence for each (importer, imported) pair that breaks a rule, in order of names."""
    banned = frozenset(forbidden)
    return sorted(fault for pair in imports if (fault := _fault(*pair, table, banned)))


def _covers(pattern: str, module: str) -> bool:
    wanted, parts = pattern.split("."), module.split(".")
    return len(wanted) <= len(parts) and all(fnmatchcase(part, want) for part, want in zip(parts, wanted, strict=False))


def _fault(importer: str, imported: str, table: Table, forbidden: frozenset[str]) -> str | None:
    here, there = floor_of(importer, table), floor_of(imported, table)
    if here in PURE and imported in forbidden:
        return f"{importer} ({here}) imports {imported}, which touches the world"
    if FLOORS.index(there) > FLOORS.index(here):
        return f"{importer} ({here}) imports {imported} ({there}): imports go down only"
    if _other_room(importer, imported):
        return f"{importer} imports {imported}: rooms meet over the wire only"
    return None


def _other_room(importer: str, imported: str) -> bool:
    here, there = room_of(importer), room_of(imported)
    return here is not None and there is not None and here != there


class FloorsContract(Contract):
    """The import linter's view of the floors: `forbidden` lists what the two lowest floors may not import."""

    type_name = "floors"

    doors = fields.ListField(subfield=fields.StringField())
    shells = fields.ListField(subfield=fields.StringField())
    adapters = fields.ListField(subfield=fields.StringField())
    rules = fields.ListField(subfield=fields.StringField())
    words = fields.ListField(subfield=fields.StringField())
    forbidden = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Compare every import of the packages with the table."""
        table: dict[str, Sequence[str]] = {floor: getattr(self, floor) for floor in FLOORS}
        ours = [module for module in graph.modules if not graph.is_module_squashed(module)]
        imports = [(module, other) for module in ours for other in graph.find_modules_directly_imported_by(module)]
        found = faults(imports, table, self.forbidden)  # type: ignore[arg-type]
        return ContractCheck(kept=not found, metadata={"faults": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print a line for each fault."""
        found: Any = check.metadata["faults"]
        for fault in found:
            output.print_error(fault)
