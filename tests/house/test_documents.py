"""What the documents promise: links lead somewhere, commands exist, and the protocol names every verb, topic and code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.api.basic import BEAT, VERBS
from common.api.catalog import SERVICES, TOPICS
from common.errors import Code

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "examples", ROOT / "benchmarks", ROOT / "deploy")
    for path in folder.rglob("*.md")
    if folder != ROOT or path.parent == ROOT
)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    broken = []
    for path, anchor in LINK.findall(document.read_text()):
        target = (document.parent / path) if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}" if anchor else path)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_make_command_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(re.findall(r"`[^`\n]+`|^```.*?^```", document.read_text(), re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"(?:^|[`\s;&])make ([a-z][a-z0-9-]*)", code)) <= targets


def protocol() -> str:
    return (ROOT / "docs" / "protocol.md").read_text()


def test_the_protocol_names_every_verb_and_topic() -> None:
    verbs = {verb.name for service in SERVICES for verb in service.verbs} | {verb.name for verb in VERBS}
    text = protocol()
    assert sorted(name for name in verbs | TOPICS.keys() | {BEAT.name} if f"`{name}`" not in text) == []


def test_the_protocol_names_every_error_code() -> None:
    text = protocol()
    assert [code.value for code in Code if f"`{code.value}`" not in text] == []
