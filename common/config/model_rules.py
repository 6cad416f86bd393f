"""What is wrong with the models of startup files: names, commands, addresses, sizes; never reads anything.

Whether a model's files are there is not judged: where they are not, its host is not feasible for it, and others may be.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final

from common.config.document import Document, Place, Problem
from common.config.models import Model
from common.config.schema import Startup
from common.config.template import FIELDS, SHELL_FIELD, Field, fields_in, file_of, mentions
from common.config.units import format_bytes

LEAST_BYTES: Final = 1024 * 1024
"""No model takes less VRAM than that, unless it takes none: a smaller size lacks its unit."""
MAX_FILES: Final = 64
READY_WITHIN_MINIMUM_S: Final = 1.0
TIMEOUT_MINIMUM_S: Final = 0.01
MAX_PORT: Final = 65_535
URL: Final = re.compile(r"https?://(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d{1,9}))?(/[^\s?#]*)?")
"""An engine's address: a host, perhaps a port and a path before the interface's own, and nothing else."""
_OF_A_COMMAND: Final = ("command", "cwd", "env", "port", "files", "limits", "logs", "preload")
_TAKEN: Final = ("supervisor",)


def judge(document: Document, startup: Startup) -> Iterator[Problem]:
    """Every problem that the models of one file have."""
    yield from _names(document, startup)
    yield from _addresses(document, startup)
    for index, model in enumerate(startup.models):
        place: Place = ("models", index)
        yield from _source(document, place, model)
        yield from _fields(document, place, model)
        yield from _files(document, place, model)
        yield from _sizes(document, place, model)
        yield from _health(document, place, model)


def judge_together(files: Sequence[tuple[Document, Startup]]) -> Iterator[Problem]:
    """A name that means one model on one host and another on a second: whoever asks for it could get either."""
    owners: dict[str, tuple[str, str]] = {}
    for _, startup in files:
        for model in startup.models:
            owners.setdefault(model.name, (model.name, startup.host))
    for document, startup in files:
        for index, model in enumerate(startup.models):
            for number, alias in enumerate(model.aliases):
                name, host = owners.setdefault(alias, (model.name, startup.host))
                if name != model.name and host != startup.host:
                    told = f"{alias} is {model.name} here and {name} on {host}"
                    place: Place = ("models", index, "aliases", number)
                    yield document.problem(place, told, "let a name mean the same model everywhere")


def _names(document: Document, startup: Startup) -> Iterator[Problem]:
    processes = {entry.name for entry in startup.entries}
    first: dict[str, Place] = {}
    labels: dict[str, str] = {}
    for index, model in enumerate(startup.models):
        for place, name in _named(index, model):
            if name and first.setdefault(name, place) != place:
                line = document.line(first[name])
                yield document.problem(place, f"{name} is already a name of line {line}'s model", "names are unique")
        if not model.name:
            continue
        own: Place = ("models", index, "name")
        if model.label in processes or model.label in _TAKEN:
            yield document.problem(own, f"{model.label} is the name of a process of this host", "choose another")
        if labels.setdefault(model.label, model.name) != model.name:
            told = f"{model.name} and {labels[model.label]} would have the same files"
            yield document.problem(own, told, "choose another")


def _named(index: int, model: Model) -> Iterator[tuple[Place, str]]:
    yield ("models", index, "name"), model.name
    for number, alias in enumerate(model.aliases):
        yield ("models", index, "aliases", number), alias


def _addresses(document: Document, startup: Startup) -> Iterator[Problem]:
    first: dict[tuple[str, str], int] = {}
    for index, model in enumerate(startup.models):
        place: Place = ("models", index, "url")
        if not model.url:
            continue
        wrong = _wrong_url(model.url)
        if wrong:
            yield document.problem(place, *wrong)
        earlier = first.setdefault((model.url.rstrip("/"), model.upstream_name), index)
        if earlier != index:
            told = f"{model.upstream_name} at {model.url} is already {startup.models[earlier].name}"
            yield document.problem(place, told, "give that one an alias")


def _wrong_url(url: str) -> tuple[str, str] | None:
    """What is wrong with an engine's address, and its mend."""
    parts = URL.fullmatch(url)
    if parts is None:
        return f"{url!r} is no address of an engine", "write http://127.0.0.1:PORT"
    port = parts["port"]
    if port is not None and not 0 < int(port) <= MAX_PORT:
        return f"{url!r} names no port", f"ports go from 1 to {MAX_PORT}"
    host = parts["host"].strip("[]")
    if not is_loopback(host):
        mend = "have the engine listen on 127.0.0.1, or list it in its own host's file"
        return f"{host} is not this host's loopback", mend
    return None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _source(document: Document, place: Place, model: Model) -> Iterator[Problem]:
    """Where the model comes from: a command or an address, and nothing that belongs to the other."""
    if model.url:
        for key in _OF_A_COMMAND:
            if document.at((*place, key)) is not None:
                told = f"{key} is for a model with a command; this one's engine runs already"
                yield document.problem((*place, key), told, "take it out, or take url out")
        return
    if model.manage:
        told = "manage is for an engine that runs already"
        yield document.problem((*place, "manage"), told, "a command's process is always managed; take it out")
    if model.command:
        if not model.port and not mentions((*model.command, *model.env.values()), "port"):
            told = "the command says no {port}, so nothing could tell where the engine listens"
            yield document.problem((*place, "command"), told, "put {port} where the program takes its port")
    elif document.at((*place, "command")) in (None, []):
        told = "neither a command nor the url of an engine that runs already"
        yield document.problem(place, told, "write command: [program, --port, '{port}'], or url: http://127.0.0.1:PORT")


def _fields(document: Document, place: Place, model: Model) -> Iterator[Problem]:
    texts: list[tuple[Place, str]] = [(("command", index), word) for index, word in enumerate(model.command)]
    texts += ((("env", key), text) for key, text in model.env.items())
    for where, text in texts:
        for field in fields_in(text):
            wrong = _wrong_field(model, field)
            if wrong:
                yield document.problem((*place, *where), *wrong)
        for name in SHELL_FIELD.findall(text):
            if (name in FIELDS or name == "PORT") and name not in model.env:
                told = f"${{{name}}} is no field of a template"
                yield document.problem((*place, *where), told, f"write {{{name.lower()}}}, without the dollar")


def _wrong_field(model: Model, field: Field) -> tuple[str, str] | None:
    if field.name not in FIELDS:
        import difflib

        close = difflib.get_close_matches(field.name.lower(), FIELDS, n=1)
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        return f"there is no field {field}", f"did you mean {{{close[0]}}}?" if close else f"known: {known}"
    if field.name in ("file", "files"):
        if field.name == "files" and field.index is None:
            return f"{field} names no one file", "write {files[0]}"
        if file_of(model, field) is None:
            return f"{field} names none of the {len(model.files)} files", "add it to files"
        return None
    return None if field.index is None else (f"{field} is no list", f"write {{{field.name}}}")


def _files(document: Document, place: Place, model: Model) -> Iterator[Problem]:
    if len(model.files) > MAX_FILES:
        told = f"{len(model.files)} files; at most {MAX_FILES} are looked for"
        yield document.problem((*place, "files"), told, "name the largest")
    for index, path in enumerate(model.files):
        if path and not path.startswith(("/", "{home}/")):
            told = f"{path} is no absolute path"
            yield document.problem((*place, "files", index), told, "begin it with / or {home}/")


def _sizes(document: Document, place: Place, model: Model) -> Iterator[Problem]:
    if 0 < model.vram < LEAST_BYTES:
        told = f"{format_bytes(model.vram)} is less than any model takes"
        yield document.problem((*place, "vram"), told, "give it its unit, as in 10GiB; 0 for one that needs no card")
    if not model.vram and (model.exclusive or model.cards > 1 or model.card_uuid):
        told = "takes no VRAM, so that it has no card to choose or to keep to itself"
        yield document.problem((*place, "vram"), told, "give its size, or take cards, card_uuid and exclusive out")
    if model.card_uuid and model.cards > 1:
        told = f"one card for a model on {model.cards} cards"
        yield document.problem((*place, "card_uuid"), told, "take card_uuid or cards out")
    if model.idle.after_s is not None and model.pinned:
        told = "a pinned model is never put away, also when it is idle"
        yield document.problem((*place, "idle"), told, "take idle or pinned out")


def _health(document: Document, place: Place, model: Model) -> Iterator[Problem]:
    where = (*place, "health")
    if model.health.path and not model.health.path.startswith("/"):
        told = f"{model.health.path!r} is no path"
        yield document.problem((*where, "path"), told, "begin it with /")
    if model.health.ready_within_s < READY_WITHIN_MINIMUM_S:
        yield document.problem((*where, "ready_within_s"), "too small to work", "write 1s or more")
    if model.health.timeout_s < TIMEOUT_MINIMUM_S:
        yield document.problem((*where, "timeout_s"), "too small to work", "write 10ms or more")
    if model.logs.max_bytes < 4096:
        yield document.problem((*place, "logs", "max_bytes"), "too small to work", "write 4KiB or more")
