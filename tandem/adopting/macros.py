"""llama-swap's macros: `${name}` in a text replaced by its value, which may name others; bounded, and never in a circle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MACRO: Final = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
MAX_CHARS: Final = 64 * 1024
MAX_DEPTH: Final = 32
_ENVIRONMENT: Final = "env."
_SECRET: Final = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)($|_)", re.IGNORECASE)


class Unexpandable(Exception):
    """Why a text cannot be expanded."""


class Secret(Unexpandable):
    """The text takes in a variable that looks like a secret, which belongs in no startup file."""


def expand(text: str, macros: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """`text` with every macro replaced. Unexpandable says which is unknown, too deep, too long, or defined by itself."""
    return _Expansion(macros, environ).text(text, ())


def is_secret(variable: str) -> bool:
    """Whether a variable's name says that its value is a secret."""
    return _SECRET.search(variable) is not None


class _Expansion:
    def __init__(self, macros: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self.macros = macros
        self.environ = environ
        self.known: dict[str, str] = {}

    def text(self, text: str, within: tuple[str, ...]) -> str:
        pieces: list[str] = []
        length = at = 0
        for found in MACRO.finditer(text):
            pieces += (text[at : found.start()], self.macro(found[1], within))
            length += len(pieces[-2]) + len(pieces[-1])
            at = found.end()
            if length > MAX_CHARS:
                raise Unexpandable(f"is longer than {MAX_CHARS} characters once its macros are replaced")
        return "".join([*pieces, text[at:]])

    def macro(self, name: str, within: tuple[str, ...]) -> str:
        if name not in self.known:
            self.known[name] = self.value(name, within)
        return self.known[name]

    def value(self, name: str, within: tuple[str, ...]) -> str:
        if name.startswith(_ENVIRONMENT):
            return self.variable(name.removeprefix(_ENVIRONMENT))
        if name in within:
            raise Unexpandable(f"goes in a circle: {' -> '.join([*within[within.index(name) :], name])}")
        if len(within) >= MAX_DEPTH:
            raise Unexpandable(f"has macros in macros more than {MAX_DEPTH} deep")
        if name not in self.macros:
            raise Unexpandable(f"names ${{{name}}}, which is defined nowhere")
        return self.text(self.macros[name], (*within, name))

    def variable(self, name: str) -> str:
        if is_secret(name):
            raise Secret(f"takes in ${{env.{name}}}, a secret, which belongs in no startup file")
        if name not in self.environ:
            raise Unexpandable(f"names ${{env.{name}}}, a variable that is not set here")
        return self.environ[name]
