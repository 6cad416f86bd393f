from __future__ import annotations

from pathlib import Path

import pytest

from common.api import catalog
from common.errors import NotFound
from tandem.cli import COMMANDS
from tandem.output import error_line
from tandem.verb_commands import COMMAND_OF, HINT, for_people

ROOT = Path(__file__).parents[2]
VERBS = {verb.name for spec in catalog.SERVICES for verb in spec.verbs}


def test_every_verb_that_a_text_of_a_service_hints_at_has_a_command() -> None:
    texts = (path.read_text() for room in ("common", "main_pc", "pc2") for path in (ROOT / room).rglob("*.py"))
    hinted = {hint[2] for text in texts for hint in HINT.finditer(text)} & VERBS
    assert hinted
    assert hinted <= COMMAND_OF.keys() <= VERBS
    assert {command.split()[1] for command in COMMAND_OF.values()} <= COMMANDS.keys()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no error group 'x'; see list_error_groups", "no error group 'x'; see `tandem errors`"),
        ("register it, or see list_agents", "register it, or see `tandem agents`"),
        ("no identity; `list_identities` tells which", "no identity; `tandem call list_identities` tells which"),
        ("did you mean list_agents?", "did you mean list_agents?"),
        ("lost; see own_words, see list_agents()", "lost; see own_words, see list_agents()"),
    ],
)
def test_a_hint_at_a_verb_names_the_command(text: str, told: str) -> None:
    assert for_people(text) == told


def test_an_error_tells_people_the_command() -> None:
    assert error_line(NotFound("no agent 'x'; see list_agents")) == "no agent 'x'; see `tandem agents`"
