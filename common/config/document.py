"""A startup file as read: plain values with the line of each, and problems that point back to them; never what values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Place = tuple[str | int, ...]
"""Where in a document: keys and indexes from the root, such as ("agents", 0, "port")."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file: where, what, and how to mend it."""

    file: str
    line: int
    place: Place
    message: str
    mend: str = ""

    def __str__(self) -> str:
        """`file:line: place: message (mend)`, on one line."""
        where = f" {spell(self.place)}:" if self.place else ""
        mend = f" ({self.mend})" if self.mend else ""
        return f"{self.file}:{self.line}:{where} {self.message}{mend}"


@dataclass(frozen=True, slots=True)
class Document:
    """A file's plain value (mappings with text keys, lists, scalars) and the 1-based line of every place in it.

    `problems` are keys that had no place in the value: there twice, or no text.
    """

    file: str
    value: object
    lines: Mapping[Place, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def at(self, place: Place) -> object:
        """The plain value at `place`, or None where the file has nothing."""
        value = self.value
        for part in place:
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value

    def line(self, place: Place) -> int:
        """The line of `place`, or of the nearest place around it that the file has."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def problem(self, place: Place, message: str, mend: str = "") -> Problem:
        """A problem at `place` of this document."""
        return Problem(self.file, self.line(place), place, message, mend)


def spell(place: Place) -> str:
    """A place as people write it: `agents[0].port`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def render(problems: Sequence[Problem]) -> str:
    """One line for each problem."""
    return "\n".join(str(problem) for problem in problems)
