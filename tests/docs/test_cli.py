"""docs/cli.md says of the command what the command says of itself."""

from __future__ import annotations

import importlib

import pytest

from common.errors import BY_CODE
from tandem.cli import COMMANDS
from tandem.exits import MEANINGS, Exit, exit_for
from tests.docs.documents import DOCUMENTS, rows, section

(PAGE,) = [document for document in DOCUMENTS if document.name == "cli.md"]
SHOWN = {row[0].strip("`"): row[1:] for row in rows(section(PAGE, "The `tandem` command"))}


def test_every_command_stands_there_with_its_line() -> None:
    assert {name: row[0] for name, row in SHOWN.items()} == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_shape_of_its_json_is_the_one_its_help_gives(name: str) -> None:
    command = importlib.import_module(f"tandem.commands.{name}").command
    assert SHOWN[name][1].strip("`") in " ".join(command.help.split())
    assert SHOWN[name][1] or name == "start"


def test_every_exit_code_stands_there_with_the_errors_that_end_so() -> None:
    ends: dict[Exit, list[str]] = {code: [] for code in Exit}
    for code, kind in BY_CODE.items():
        ends[exit_for(kind("x"))].append(code.value)
    told = {int(row[0]): (row[1], sorted(row[2].replace("`", "").split())) for row in rows(section(PAGE, "Exit codes"))}
    assert told == {code.value: (MEANINGS[code], sorted(ends[code])) for code in Exit}
