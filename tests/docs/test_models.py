"""docs/models.md: its entries are a startup file's, its table has every field, and its words are the command's."""

from __future__ import annotations

import re
from pathlib import Path

from common.config.decode import decode
from common.config.document import Document
from common.config.loader import read
from common.config.models import Model
from common.config.template import FIELDS
from common.config.validate import Candidate, Machine, judge
from tandem.adopting.proposal import KINDS
from tests.docs.documents import DOCUMENTS, ROOT, blocks, rows, section

(PAGE,) = [document for document in DOCUMENTS if document.name == "models.md"]
HEAD = "version: 1\nhost: h\nsupervisor: {}\n"


def problems(path: Path) -> list[str]:
    document = read(path)
    assert isinstance(document, Document)
    startup, wrong = decode(document)
    assert startup.models
    machine = Machine(lambda startup, launched: True, lambda path: True, frozenset({0}))
    return [str(problem) for problem in (*wrong, *judge([Candidate(document, startup)], machine))]


def test_its_entries_are_sound(tmp_path: Path) -> None:
    (example,) = [block for block in blocks("yaml") if block.document == PAGE]
    path = tmp_path / "startup.yaml"
    path.write_text(HEAD + example.text)
    assert problems(path) == []


def test_the_entries_that_stand_in_the_startup_files_as_comments_are_sound(tmp_path: Path) -> None:
    for name in ("startup_main.yaml", "startup_pc2.yaml"):
        text = (ROOT / "config" / name).read_text()
        (found,) = re.findall(r"^models: \[\]\n(?:# [A-Z].*\n|#   .*\n)*?((?:#  [ -].*\n)+)", text, re.MULTILINE)
        path = tmp_path / name
        path.write_text(HEAD + "models:\n" + re.sub(r"^#", "", found, flags=re.MULTILINE))
        assert problems(path) == []


def test_every_field_stands_in_the_table() -> None:
    told = [name for row in rows(section(PAGE, "An entry")) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(told) == sorted(Model.__struct_fields__)


def test_every_template_field_and_every_kind_of_note_is_explained() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"`\{(\w+)(?:\[\d\])?\}`", text))
    assert named == set(FIELDS)
    assert [kind for kind in KINDS if f"`{kind}` (" not in text.replace("\n", " ")] == []
