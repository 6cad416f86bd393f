"""Which command does for people what a verb does for programs, so that an error's hint names what can be typed.

Services hint at verbs, for most who read them are programs; `--json` shows their texts as they are.
"""

from __future__ import annotations

import re
from typing import Final

COMMAND_OF: Final = {
    "list_agents": "tandem agents",
    "list_error_groups": "tandem errors",
    "list_identities": "tandem call list_identities",
    "get_metrics": "tandem call get_metrics",
    "use_model": "tandem models load",
}

HINT: Final = re.compile(r"(see |; )`?([a-z]+(?:_[a-z]+)+)`?(?![\w(])")
"""Where a text hints at a verb: `see list_agents`, `; get_metrics lists those there are`."""


def for_people(text: str) -> str:
    """The text with the command in place of each verb that it hints at and that has one."""
    return HINT.sub(_named, text)


def _named(hint: re.Match[str]) -> str:
    command = COMMAND_OF.get(hint[2])
    return f"{hint[1]}`{command}`" if command else hint[0]
