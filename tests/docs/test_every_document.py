"""What holds of every document: the files, commands and words it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.protocol_tables import parts
from tandem.cli import COMMANDS
from tests.docs.documents import DOCUMENTS, ROOT, Block, blocks

LONGEST = 130


def named(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_file_it_names_is_there(document: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    files = re.findall(r"`((?:common|main_pc|pc2|tandem|scripts|config|examples|docs|tests)/[\w./-]+)`", prose)
    assert sorted({file for file in files if not (ROOT / file).exists() and not (ROOT / f"{file}.py").exists()}) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_of_tandem_it_names_exists(document: Path) -> None:
    code = "\n".join(re.findall(r"`[^`\n]+`|^```sh$.*?^```$", document.read_text(), re.MULTILINE | re.DOTALL))
    assert sorted(set(re.findall(r"(?:^|[`/])tandem ([a-z]+)", code, re.MULTILINE)) - COMMANDS.keys()) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_prose_keeps_to_the_page(document: Path) -> None:
    text = document.read_text()
    for part in parts().values():
        text = text.replace(part, "")
    assert [line for line in text.splitlines() if len(line) > LONGEST and not line.startswith("|")] == []


@pytest.mark.parametrize("block", [b for language in ("python", "perl") for b in blocks(language) if b.of], ids=str)
def test_a_program_stands_there_word_for_word(block: Block) -> None:
    assert block.text == (ROOT / block.of).read_text()


def test_every_example_program_stands_in_a_document() -> None:
    shown = {block.of for language in ("python", "perl") for block in blocks(language)}
    assert {f"examples/protocol/{path.name}" for path in (ROOT / "examples" / "protocol").iterdir()} <= shown
