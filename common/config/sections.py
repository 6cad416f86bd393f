"""The parts that several kinds of entries of a startup file have in common: their types, units, bounds and defaults.

Every struct forbids unknown fields. What a whole file looks like is common/config/schema.py's to say.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from common.config.units import Duration, Size

PortOrChosen = Annotated[int, Meta(ge=0, le=65_535, description="0: chosen by the system")]
Label = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z",
        description="letters, digits and _.- after a letter or digit",
    ),
]
MIB = 1024 * 1024


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a startup file."""


class Stop(Section, frozen=True):
    """How a process is asked to go: `signal` first, KILL to its whole session after `term_s`."""

    signal: Literal["TERM", "INT", "QUIT", "HUP"] = "TERM"
    term_s: Duration = Duration(5.0)


class Limits(Section, frozen=True):
    """What a process and its children may take; what is absent is not limited.

    `memory_bytes` is RLIMIT_DATA (private writable memory; RLIMIT_AS would break CUDA), `cpus` the cores by number.
    """

    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    cpus: list[Annotated[int, Meta(ge=0, le=4_095)]] = []
    memory_bytes: Size | None = None
    open_files: Annotated[int, Meta(ge=16, le=1_048_576)] | None = None


class Logs(Section, frozen=True):
    """A process's log: a file is rotated at `max_bytes`, and `keep` older ones stay."""

    max_bytes: Size = Size(10 * MIB)
    keep: Annotated[int, Meta(ge=1, le=100)] = 3


class Launched(Protocol):
    """What has a program to run: an entry, or a model with a command."""

    @property
    def command(self) -> list[str]:
        """The program and its arguments, with their template fields."""
        ...

    @property
    def cwd(self) -> str:
        """The folder it runs in; empty for the supervisor's own."""
        ...

    @property
    def env(self) -> dict[str, str]:
        """Variables beside those of the supervisor."""
        ...

    @property
    def limits(self) -> Limits:
        """What it may take."""
        ...
