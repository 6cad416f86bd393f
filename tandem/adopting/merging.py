"""Which proposals are new to a startup file, and under which names; what is in the file already is never changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from common.config.document import Document
from common.config.models import Model
from common.config.schema import Startup
from common.config.sections import Launched
from tandem.adopting.proposal import Kind, Note, Proposal

Runnable = Callable[[Startup, Launched], bool]


@dataclass(slots=True)
class Merged:
    """The models to add, in their order; the names of those that are there already; and what became otherwise on the way."""

    added: list[Proposal] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def merge(document: Document, startup: Startup, proposals: Sequence[Proposal], runnable: Runnable) -> Merged:
    """What adding the proposals to this file comes to. Asked again with the file that has them, it adds nothing."""
    return _Merge(document, startup, runnable).of(proposals)


class _Merge:
    def __init__(self, document: Document, startup: Startup, runnable: Runnable) -> None:
        self.document = document
        self.startup = startup
        self.runnable = runnable
        self.merged = Merged()
        self.owners = {name: model.name for model in startup.models for name in model.names}
        self.models = {model.name: model for model in startup.models}
        self.served = {(_plain(model.url), model.upstream_name): model.name for model in startup.models if model.url}
        self.ports = {f"http://127.0.0.1:{model.port}": model.name for model in startup.models if model.port}
        self.labels = {model.label for model in startup.models} | {entry.name for entry in startup.entries}

    def of(self, proposals: Sequence[Proposal]) -> Merged:
        for proposal in proposals:
            self.one(proposal)
        return self.merged

    def one(self, proposal: Proposal) -> None:
        model = proposal.model
        there = self.there(model) if model.url else None
        if there is not None:
            self.merged.present.append(there)
        elif not model.url and model.name in self.models:
            self.same_name(proposal)
        else:
            self.add(proposal)

    def there(self, model: Model) -> str | None:
        """The model of the file that has this one's engine already: by its address, or on the port that it is started on."""
        url = _plain(model.url)
        return self.served.get((url, model.upstream_name)) or self.ports.get(url)

    def same_name(self, proposal: Proposal) -> None:
        name = proposal.model.name
        self.merged.present.append(name)
        differing = _differing(self.models[name], proposal.model)
        if differing:
            mend = "take it out of the startup file to have it translated anew"
            self.note(proposal, "needless", f"{name} is there already, with other {', '.join(differing)}", mend)

    def add(self, proposal: Proposal) -> None:
        wanted = proposal.model
        model = self.named(proposal)
        if model is None:
            return
        aliases = [alias for alias in wanted.aliases if alias not in self.owners]
        for alias in wanted.aliases:
            if alias in self.owners:
                self.note(proposal, "left out", f"{alias} is a name of {self.owners[alias]} already")
        model = msgspec.structs.replace(model, aliases=list(dict.fromkeys(aliases)))
        if model.command and not self.runnable(self.startup, model):
            told = f"there is no program {model.command[0]!r} here, so that it is written with enabled: false"
            self.note(proposal, "changed", told, "install it and take that out")
            model = msgspec.structs.replace(model, enabled=False)
        self.take(replace(proposal, model=model))

    def named(self, proposal: Proposal) -> Model | None:
        """The model under a name that is free; None where it can have none."""
        model = proposal.model
        if self.is_free(model):
            return model
        if not model.url:
            owner = self.owners.get(model.name, "a process")
            self.note(proposal, "skipped", f"{model.name} is a name of {owner} already", "rename one of them")
            return None
        port = model.url.rpartition(":")[2]
        other = msgspec.structs.replace(model, name=f"{model.name[:120]}@{port}", upstream=model.upstream_name)
        if not self.is_free(other):
            self.note(proposal, "skipped", f"{model.name} and {other.name} are names already", "rename one of them")
            return None
        self.note(proposal, "changed", f"{model.name} is a name already; this one is {other.name}")
        return other

    def is_free(self, model: Model) -> bool:
        return model.name not in self.owners and model.label not in self.labels

    def take(self, proposal: Proposal) -> None:
        model = proposal.model
        self.merged.added.append(proposal)
        self.models[model.name] = model
        self.labels.add(model.label)
        self.owners |= dict.fromkeys(model.names, model.name)
        if model.url:
            self.served[_plain(model.url), model.upstream_name] = model.name

    def note(self, proposal: Proposal, kind: Kind, message: str, mend: str = "") -> None:
        self.merged.notes.append(Note(kind, proposal.file, proposal.line, proposal.model.name, message, mend))


def _plain(url: str) -> str:
    """An engine's address in the one form in which two are compared."""
    return url.rstrip("/").removesuffix("/v1").replace("//localhost", "//127.0.0.1").replace("//[::1]", "//127.0.0.1")


def _differing(one: Model, other: Model) -> list[str]:
    """The fields in which a model of the file differs from its translation; sizes are learned, and never the same for long."""
    quiet = ("vram", "enabled", "aliases", "load_s")
    return [name for name in one.__struct_fields__ if name not in quiet and getattr(one, name) != getattr(other, name)]
