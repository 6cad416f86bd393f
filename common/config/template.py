"""Command templates of models: which fields there are, and a template filled; never judges what a command does.

A field is a word in single braces. Doubled braces, and braces around anything but a word, as in JSON, stay as they are; so does
a shell's `${word}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from common.config.models import Model
from common.errors import BadRequest

FIELDS: Final = ("port", "file", "files", "card_uuid", "name", "upstream", "home", "host", "python")
FIELD: Final = re.compile(r"(?<![{$])\{([A-Za-z_]\w*)(?:\[(\d{1,3})\])?\}(?!\})", re.ASCII)
SHELL_FIELD: Final = re.compile(r"\$\{([A-Za-z_]\w*)\}", re.ASCII)
_INDEXED: Final = "files"


@dataclass(frozen=True, slots=True)
class Filling:
    """What only a start knows: the port chosen, the cards leased, and the host's own words."""

    port: int
    card_uuids: Sequence[str]
    home: str
    host: str
    python: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field as a template names it; `index` is None without one."""

    name: str
    index: int | None

    def __str__(self) -> str:
        return f"{{{self.name}}}" if self.index is None else f"{{{self.name}[{self.index}]}}"


def fields_in(text: str) -> list[Field]:
    """The fields that `text` names, known or not, in their order."""
    return [_field(found) for found in FIELD.finditer(text)]


def filled(model: Model, filling: Filling) -> tuple[list[str], dict[str, str]]:
    """The words of the model's command and its variables, filled in. BadRequest names a field that means nothing here."""
    words = [_fill(word, model, filling) for word in model.command]
    return words, {key: _fill(text, model, filling) for key, text in model.env.items()}


def mentions(texts: Iterable[str], name: str) -> bool:
    """Whether any of the templates names this field."""
    return any(field.name == name for text in texts for field in fields_in(text))


def _field(found: re.Match[str]) -> Field:
    return Field(found[1], None if found[2] is None else int(found[2]))


def _fill(text: str, model: Model, filling: Filling) -> str:
    return FIELD.sub(lambda found: _value(_field(found), model, filling), text)


def _value(field: Field, model: Model, filling: Filling) -> str:
    plain = {
        "port": str(filling.port),
        "card_uuid": ",".join(filling.card_uuids),
        "name": model.name,
        "upstream": model.upstream_name,
        "home": filling.home,
        "host": filling.host,
        "python": filling.python,
    }
    if field.index is None and field.name in plain:
        return plain[field.name]
    path = file_of(model, field)
    if path is None:
        raise BadRequest(f"{model.name}: {field} means nothing in its command")
    return path.replace("{home}", filling.home)


def file_of(model: Model, field: Field) -> str | None:
    """Which of the model's files `{file}` or `{files[n]}` is; None for any other field, or where there are not so many."""
    index = {"file": 0 if field.index is None else None, _INDEXED: field.index}.get(field.name)
    return model.files[index] if index is not None and index < len(model.files) else None
