"""What a translation comes to: models to be added to a startup file, and notes on all that is not as it was.

Nothing of a source is left out without a note that says where it stood and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from common.config.document import Document, Place, spell
from common.config.models import Model

Kind = Literal["skipped", "left out", "changed", "guessed", "needless"]
KINDS: Final[dict[Kind, str]] = {
    "skipped": "no model was made of it",
    "left out": "the model does without it",
    "changed": "it is written otherwise than it stood",
    "guessed": "a figure that the first load will correct",
    "needless": "Tandem does it by itself, or has no use for it",
}
"""What a note means, the gravest first."""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that is not as it was: where it stood, what became of it, what to do about it, and which model it is about."""

    kind: Kind
    file: str
    line: int
    place: str
    message: str
    mend: str = ""
    model: str = ""

    def __str__(self) -> str:
        """`file:line: place: message (mend)`; without a line where the source is no file."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        place = f" {self.place}:" if self.place else ""
        return f"{where}:{place} {self.message}" + (f" ({self.mend})" if self.mend else "")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A model that could be added, and where it comes from."""

    model: Model
    file: str
    line: int

    @property
    def origin(self) -> str:
        """Its source in one word: `file:line`, or an address."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Facts:
    """What a translation may ask of this machine: variables, sizes of files (None: no such file), folders, the largest card."""

    environ: Mapping[str, str]
    file_bytes: Callable[[str], int | None]
    is_folder: Callable[[str], bool]
    card_bytes: int = 0


@dataclass(slots=True)
class Findings:
    """What a source came to so far."""

    file: str
    proposals: list[Proposal] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def note(self, kind: Kind, line: int, place: str, message: str, mend: str = "") -> None:
        """Takes a note."""
        self.notes.append(Note(kind, self.file, line, place, message, mend))

    def propose(self, proposal: Proposal, since: int) -> None:
        """Takes a proposal; the notes from number `since` on are about it."""
        self.proposals.append(proposal)
        self.notes[since:] = [replace(note, model=proposal.model.name) for note in self.notes[since:]]

    def skip(self, document: Document, place: Place, since: int, message: str, mend: str = "") -> None:
        """No model is made of a place; what was noted of it from number `since` on counts no longer."""
        del self.notes[since:]
        self.note_at(document, "skipped", place, message, mend)

    def note_at(self, document: Document, kind: Kind, place: Place, message: str, mend: str = "") -> None:
        """Takes a note about a place of the source's document."""
        self.note(kind, document.line(place), spell(place), message, mend)
