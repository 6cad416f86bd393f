"""`tandem adopt` in one go: looks and reads, merges, plans the new file, and puts it in place where that was asked for.

Without `apply` nothing is changed anywhere. With it one file is, and the host's supervisor is told; no process is started,
stopped or signalled either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.api import models
from common.config.loader import runnable
from common.config.settings import Settings
from common.errors import TandemError
from tandem import asking
from tandem.adopting import looking, merging, running, sources, writing
from tandem.adopting.merging import Merged
from tandem.adopting.proposal import KINDS, Findings, Note
from tandem.adopting.sources import Source
from tandem.adopting.writing import StartupFile


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be adopted: what runs here, these sources, or both; and into which startup file."""

    file: Path
    sources: tuple[Path, ...] = ()
    kind: Source | None = None
    running: bool = True
    ports: tuple[int, ...] = looking.USUAL_PORTS


@dataclass(frozen=True, slots=True)
class Adoption:
    """What an order comes to: the new text, and everything that is to be said of it."""

    file: StartupFile
    text: str
    merged: Merged
    notes: tuple[Note, ...]

    @property
    def difference(self) -> str:
        """What would change."""
        return writing.difference(self.file, self.text)


@dataclass(frozen=True, slots=True)
class Applied:
    """Where the old file is kept, and whether the supervisor has the new models, or why not."""

    backup: str
    told: bool
    why_not: str


def adoption(order: Order) -> Adoption:
    """What adopting comes to now; changes nothing."""
    file = writing.opened(order.file)
    host = file.startup.host
    samples = looking.sampled(host, Settings.read())
    found = [sources.findings(path, order.kind, looking.largest(samples)) for path in order.sources]
    if order.running:
        look = asyncio.run(looking.look(samples, order.ports))
        found.append(running.proposed(look.seen, look.brokers, look.processes, host, look.holders))
    return _merged(file, found)


def _merged(file: StartupFile, found: Sequence[Findings]) -> Adoption:
    merged = merging.merge(file.document, file.startup, [each for one in found for each in one.proposals], runnable)
    old = set(merged.present) - {proposal.model.name for proposal in merged.added}
    kinds = list(KINDS)
    notes = [note for each in found for note in each.notes if note.model not in old]
    notes = sorted(
        dict.fromkeys([*notes, *merged.notes]), key=lambda note: (kinds.index(note.kind), note.file, note.line)
    )
    return Adoption(file, writing.planned(file, merged.added), merged, tuple(notes))


def apply(adoption: Adoption) -> Applied:
    """Puts the new file in place, where anything is new, and tells the host's supervisor. Conflict where it changed meanwhile."""
    if not adoption.merged.added:
        return Applied("", True, "")
    backup = writing.replaced(adoption.file, adoption.text)
    why_not = _told(adoption.file.startup.host)
    return Applied(str(backup), not why_not, why_not)


def _told(host: str) -> str:
    """Has the host's supervisor take the new models in; why it did not, empty when it did. It restarts nothing."""
    if host not in asking.hosts():
        return f"no supervisor of {host} is known here"
    try:
        with asking.fabric() as client:
            client.call(f"{asking.SUPERVISOR}{host}", models.RELOAD_MODELS, models.ReloadModels())
    except TandemError as error:
        return error.message
    return ""
