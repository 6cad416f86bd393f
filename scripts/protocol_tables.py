"""Writes into docs/protocol.md what the code says of itself: field types, verbs, structures, topics and golden messages.

    python -m scripts.protocol_tables --write | --check

Each part lies between two marks and is replaced whole; the prose around them is a person's. It explains nothing that the
vocabulary's own docstrings and bounds do not say.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo

from common.api import agent, basic, supervisor, words
from common.api.catalog import SERVICES, SUPERVISOR, ServiceSpec
from common.api.words import AnyVerb, Topic

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = ROOT / "docs" / "protocol.md"
GOLDEN: Final = ROOT / "tests" / "common" / "wire" / "golden.txt"

NAMED: Final[dict[Any, str]] = {
    words.Count: "count",
    words.Bytes: "bytes",
    words.Port: "port",
    words.MaybePort: "port or 0",
    words.Priority: "priority",
    words.Seconds: "seconds",
    words.Name: "name",
    words.Host: "host",
    words.Id: "id",
    words.Key: "key",
    words.Text: "long text",
    words.Timestamp: "time",
    words.Blob: "binary",
}
"""The words for the vocabulary's field types; docs/protocol.md uses them and no others."""

SIMPLE: Final[dict[Any, str]] = {
    str: "text",
    bytes: "binary",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "any",
    msgspec.Raw: "any",
}
JSON_TYPES: Final[dict[Any, str]] = {int: "integer", float: "number", str: "string"}

Structs = dict[str, type[msgspec.Struct]]
Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def say(hint: Any, met: Structs) -> str:
    """A field's type in words; the structures it names are added to `met`."""
    if hint in NAMED:
        return NAMED[hint]
    if hint in SIMPLE:
        return SIMPLE[hint]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _link(hint, met)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return say(parts[0], met) + "".join(f", {bound}" for bound in _bounds(parts[1:]))
    if origin is Literal:
        return ", ".join(f'`"{value}"`' for value in parts)
    if origin is list:
        return f"list of {say(parts[0], met)}"
    if origin is dict:
        return "object" if parts[1] is Any else f"object of {say(parts[1], met)}"
    return " or ".join(say(part, met) for part in parts)


def _link(struct: type[msgspec.Struct], met: Structs) -> str:
    if met.setdefault(struct.__name__, struct) is not struct:
        raise ValueError(f"two structures are called {struct.__name__}")
    return f"[{struct.__name__}](#{struct.__name__.lower()})"


def _bounds(metas: Sequence[Any]) -> Iterator[str]:
    for meta in metas:
        if isinstance(meta, Meta):
            low = f"above {meta.gt:,}" if meta.gt is not None else f"from {meta.ge:,}" if meta.ge is not None else ""
            high = f"to {meta.le:,}" if meta.le is not None else ""
            if low or high:
                yield f"{low} {high}".strip()
            if meta.max_length is not None:
                yield f"{meta.min_length or 0} to {meta.max_length:,} long"


def default_of(field: FieldInfo) -> str:
    """What an absent field means; nothing where it must be there."""
    if field.required:
        return ""
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"`{msgspec.json.encode(value).decode()}`"


def rows_of(struct: Any, met: Structs) -> list[list[str]]:
    """A structure's fields: name, type, and what an absent one means."""
    fields = msgspec.structs.fields(struct)
    return [[f"`{field.encode_name}`", say(field.type, met), default_of(field)] for field in fields]


def sentences(thing: type) -> str:
    """A structure's docstring on one line."""
    return " ".join((thing.__doc__ or "").split())


def verb_section(verb: AnyVerb, met: Structs) -> str:
    """One verb: who may call it, whether it may be sent twice, and its fields both ways."""
    again = "may be sent twice" if verb.idempotent else "not idempotent"
    streams = "; streams" if verb.part is not None else ""
    stability = "" if verb.stability == "stable" else f"; {verb.stability}"
    lines = [
        f"#### `{verb.name}`",
        "",
        f"{verb.summary[0].upper()}{verb.summary[1:]}. *{verb.access.value}; {again}{streams}{stability}.*",
    ]
    if verb.request is not words.Empty:
        lines += ["", sentences(verb.request)]
    rows = [["request", field, type_, default or "required"] for field, type_, default in rows_of(verb.request, met)]
    if verb.part is not None:
        rows += [["part", field, type_, ""] for field, type_, _ in rows_of(verb.part, met)]
    rows += [["reply", field, type_, ""] for field, type_, _ in rows_of(verb.reply, met)]
    if rows:
        lines += ["", table(["", "field", "type", "if absent"], rows)]
    return "\n".join(lines)


def _ports(spec: ServiceSpec) -> str:
    if spec is SUPERVISOR:
        places = [f"{', '.join(map(str, ports))} on {host}" for host, ports in supervisor.PORTS.items()]
        return f"Request, events and health port: {'; '.join(places)}."
    return f"Request, events and health port: {spec.port}, {spec.events_port}, {spec.health_port}."


def verbs_part(met: Structs) -> str:
    """Every verb, once, by the service that serves it first."""
    sections = ["### Every process", *(verb_section(verb, met) for verb in basic.VERBS)]
    told: set[str] = set()
    for spec in SERVICES:
        own = [verb for verb in spec.verbs if verb.name not in told]
        shared = [verb.name for verb in spec.verbs if verb.name in told]
        sections += [f"### {spec.name}", _ports(spec)]
        if shared:
            links = ", ".join(f"[`{name}`](#{name})" for name in shared)
            sections.append(f"Also, in the same words, over what is its own: {links}.")
        sections += [verb_section(verb, met) for verb in own]
        told |= {verb.name for verb in own}
    return "\n\n".join(sections)


def topics_part(met: Structs) -> str:
    """Every topic with its publishers and the structure of its events."""
    publishers: dict[str, list[str]] = {}
    found: dict[str, Topic] = {}
    for publisher, topics in [*((spec.name, spec.topics) for spec in SERVICES), ("every agent", agent.TOPICS)]:
        for topic in topics:
            found[topic.name] = topic
            publishers.setdefault(topic.name, []).append(publisher)
    found[basic.BEAT.name] = basic.BEAT
    publishers[basic.BEAT.name] = ["every process with an events port"]
    rows = [
        [f"`{name}`", ", ".join(publishers[name]), _link(topic.event, met), topic.summary]
        for name, topic in sorted(found.items())
    ]
    return table(["topic", "publisher", "body", "says"], rows)


def structures_part(met: Structs) -> str:
    """Every structure that a field, part or event names, with those that it names in turn."""
    sections: dict[str, str] = {}
    while waiting := [name for name in met if name not in sections]:
        for name in waiting:
            rows = rows_of(met[name], met)
            sections[name] = f"#### {name}\n\n{sentences(met[name])}\n\n" + table(["field", "type", "default"], rows)
    return "\n\n".join(sections[name] for name in sorted(sections))


def field_types_part() -> str:
    """What the words for types mean."""
    return table(["word", "in JSON", "bounds"], [[word, *_meaning(hint)] for hint, word in NAMED.items()])


def _meaning(hint: Any) -> tuple[str, str]:
    if hint is words.Blob:
        return "string", "base64 in JSON, bin in msgpack, or an attachment named in the header"
    kind, *metas = get_args(hint)
    said = [meta.description for meta in metas if meta.description] + list(_bounds(metas))
    said += [f"matches `{meta.pattern}`" for meta in metas if meta.pattern]
    return JSON_TYPES[kind], ", ".join(said)


def golden_part() -> str:
    """The golden messages as the tests read them."""
    return f"```text\n{GOLDEN.read_text().rstrip()}\n```"


def parts() -> dict[str, str]:
    """Every generated part by its name."""
    met: Structs = {}
    made = {"verbs": verbs_part(met), "topics": topics_part(met)}
    return made | {"structures": structures_part(met), "field types": field_types_part(), "golden": golden_part()}


def filled(text: str) -> str:
    """The document with every part as the code has it now; KeyError when a mark is missing or names no part."""
    made = parts()
    marked = re.findall(r"^<!-- made by scripts/protocol_tables.py: (.+) -->$", text, re.MULTILINE)
    if sorted(marked) != sorted(made):
        raise KeyError(f"the document marks {sorted(marked)}; there are {sorted(made)}")
    for name, body in made.items():
        begin, end = f"<!-- made by scripts/protocol_tables.py: {name} -->", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n\n{body}\n\n{end}{rest.partition(end)[2]}"
    return text


def main(arguments: Sequence[str]) -> int:
    """`--write` fills the document in; `--check` says whether it is as it should be (exit status 1 if not)."""
    old = DOCUMENT.read_text()
    new = filled(old)
    if arguments == ["--write"]:
        DOCUMENT.write_text(new)
    elif old != new:
        print(f"{DOCUMENT.relative_to(ROOT)} is behind the code; run python -m scripts.protocol_tables --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
