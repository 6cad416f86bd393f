"""The documents and what stands in their code blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^(?:<!-- (?P<of>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block: the file it says it is, if any, its language and its text."""

    document: Path
    of: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}: {self.text.splitlines()[0][:40]}"


def blocks(language: str) -> list[Block]:
    """Every block of that language, in all documents."""
    return [
        Block(document, found["of"] or "", language, found["text"])
        for document in DOCUMENTS
        for found in _BLOCK.finditer(document.read_text())
        if found["language"] == language
    ]


def having(text: str) -> list[Block]:
    """Every shell block that holds these words."""
    return [block for block in blocks("sh") if text in block.text]


def section(document: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    text = document.read_text()
    start = re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE)
    assert start, f"{document.name} has no heading {heading!r}"
    return re.split(r"^#+ ", text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The rows of every table in a text, heads and rules left out."""
    found: list[list[str]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        rule = line.startswith("| ---")
        head = number + 1 < len(lines) and lines[number + 1].startswith("| ---")
        if line.startswith("|") and not rule and not head:
            found.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found
