"""What of a message varies from one occurrence to the next, and its template without that: `no room on <path> for <n> files`.

The rules are fixed and belong to the fingerprint's version: a text has the same template in every process and for ever, so that
no restart regroups anything. A miner that learns templates as messages arrive could not promise that. Every rule takes time
linear in the text.
"""

from __future__ import annotations

import re
from typing import Final

READ_CHARS: Final = 2_048
"""What lies behind this many characters says nothing about which error it is."""

_DATE: Final = r"\d{4}-\d\d-\d\d"
_CLOCK: Final = r"\d{1,2}:\d\d:\d\d(?:[.,]\d+)?"
_HEX: Final = r"(?<![^\W_])(?=\d*[a-fA-F])(?=[a-fA-F]*\d)[0-9a-fA-F]{8,}(?![^\W_])"
_NUMBER: Final = r"\d+(?:[.,_]\d+)*(?:[eE][+-]?\d+)?"
_RULES: Final = (
    ("time", rf"{_DATE}(?:[T ]{_CLOCK}(?:\s?(?:Z|UTC)\b|[+-]\d\d:?\d\d)?)?|\b{_CLOCK}"),
    ("uuid", r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b"),
    ("url", r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,15}://[^\s\"'<>]+"),
    ("text", r"(?<!\w)(?:\"[^\"\n]*\"|'[^'\n]*'|`[^`\n]*`)(?!\w)"),
    (
        "ip",
        r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|(?<![\w:])(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{0,4}){2,7}|::1)(?![\w:])",
    ),
    ("path", r"(?<![\w/\\~.])(?:[A-Za-z]:|~|\.{1,2})?(?:[/\\][\w.@%+~-]+)+[/\\]?"),
    ("n", rf"0[xX][0-9a-fA-F]+|{_HEX}|{_NUMBER}"),
)
_VARYING: Final = re.compile("|".join(f"(?P<{name}>{rule})" for name, rule in _RULES))


def mask(text: str) -> str:
    """The template of a text: each varying part by its kind, white space as single spaces."""
    return " ".join(_VARYING.sub(_kind, text[:READ_CHARS]).split())


def _kind(found: re.Match[str]) -> str:
    return f"<{found.lastgroup}>"
