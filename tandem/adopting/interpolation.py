"""Variables in a compose file's texts: `$NAME`, `${NAME}`, and their forms with a default, an error or a replacement.

As the Compose specification lays down (interpolation): `:-` and `-`, `:?` and `?`, `:+` and `+`, nested; `$$` is a dollar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MAX_CHARS: Final = 64 * 1024
MAX_DEPTH: Final = 16
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR: Final = re.compile(r":?[-?+]")


class Uninterpolable(Exception):
    """Why a text cannot be filled in."""


def filled(value: Any, environ: Mapping[str, str]) -> Any:
    """A plain value with the variables of all its texts filled in, keys as they are. Uninterpolable says why it cannot be."""
    if isinstance(value, str):
        return text(value, environ)
    if isinstance(value, list):
        return [filled(each, environ) for each in value]
    return {key: filled(each, environ) for key, each in value.items()} if isinstance(value, dict) else value


def text(value: str, environ: Mapping[str, str], depth: int = 0) -> str:
    """One text filled in; a variable that is not set and has no default is empty, as in compose."""
    if depth > MAX_DEPTH:
        raise Uninterpolable(f"has variables in variables more than {MAX_DEPTH} deep")
    pieces: list[str] = []
    at = 0
    while (dollar := value.find("$", at)) >= 0:
        pieces.append(value[at:dollar])
        piece, at = _variable(value, dollar, environ, depth)
        pieces.append(piece)
    told = "".join([*pieces, value[at:]])
    if len(told) > MAX_CHARS:
        raise Uninterpolable(f"is longer than {MAX_CHARS} characters once its variables are filled in")
    return told


def _variable(value: str, dollar: int, environ: Mapping[str, str], depth: int) -> tuple[str, int]:
    """What stands at a dollar, and where the text goes on."""
    following = value[dollar + 1 : dollar + 2]
    if following == "$":
        return "$", dollar + 2
    if following == "{":
        end = _closing(value, dollar + 2)
        return _braced(value[dollar + 2 : end], environ, depth), end + 1
    name = _NAME.match(value, dollar + 1)
    if name is None:
        raise Uninterpolable(f"has a dollar without a variable in {value[:80]!r}; a dollar is written $$")
    return environ.get(name[0], ""), name.end()


def _closing(value: str, at: int) -> int:
    depth = 1
    for index in range(at, len(value)):
        if value.startswith("${", index):
            depth += 1
        elif value[index] == "}":
            depth -= 1
            if not depth:
                return index
    raise Uninterpolable(f"has a brace that is never closed in {value[:80]!r}")


def _braced(inner: str, environ: Mapping[str, str], depth: int) -> str:
    name = _NAME.match(inner)
    operator = _OPERATOR.match(inner, name.end()) if name else None
    if name is None or (operator is None and name.end() != len(inner)):
        raise Uninterpolable(f"has no variable in ${{{inner[:80]}}}")
    set_to = environ.get(name[0])
    if operator is None:
        return set_to or ""
    rest = inner[operator.end() :]
    there = bool(set_to) if operator[0].startswith(":") else set_to is not None
    kind = operator[0][-1]
    if kind == "+":
        return text(rest, environ, depth + 1) if there else ""
    if there:
        return set_to or ""
    if kind == "?":
        raise Uninterpolable(f"needs the variable {name[0]}, which is not set" + (f": {rest}" if rest else ""))
    return text(rest, environ, depth + 1)
