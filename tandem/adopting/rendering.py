"""Models as the YAML of a startup file, and a startup file's text with them: every other line of it stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import yaml
from msgspec.structs import fields
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from common.config.sections import Section
from common.config.units import Duration, Size
from common.errors import BadRequest
from tandem.adopting.proposal import Proposal
from tandem.adopting.shaping import written_bytes

KEY: Final = "models"
WIDTH: Final = 112
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON takes in a text and YAML does not, or would take for the end of a line."""


def with_models(text: str, proposals: Sequence[Proposal]) -> str:
    """The text of a startup file with these models after those that it has; its comments, order and line ends stay.

    BadRequest where `models` is written in a way that nothing can be put into.
    """
    if not proposals:
        return text
    end = "\r\n" if "\r\n" in text else "\n"
    plain_text = text.replace("\r\n", "\n")
    root = yaml.compose(plain_text, Loader=yaml.SafeLoader)
    if not isinstance(root, MappingNode):
        raise BadRequest("the startup file is no mapping")
    return _changed(plain_text, root, proposals).replace("\n", end)


def _changed(text: str, root: MappingNode, proposals: Sequence[Proposal]) -> str:
    found = next(((key, value) for key, value in root.value if key.value == KEY), None)
    if root.flow_style:
        return _into_flow_root(text, root, found, proposals)
    if found is None:
        return _at_the_end(text, root, proposals)
    key, node = found
    if isinstance(node, SequenceNode) and node.value:
        if node.start_mark.index < key.start_mark.index:
            raise BadRequest(
                "models is an alias of something above, and cannot be added to", mend="write the models out"
            )
        return _into_flow(text, node, proposals) if node.flow_style else _after_the_last(text, node, proposals)
    if isinstance(node, SequenceNode) or (isinstance(node, ScalarNode) and node.value in ("", "~", "null")):
        return _in_place_of_nothing(text, key, node, proposals)
    raise BadRequest("models is no list, and cannot be added to", mend="`tandem check` tells its problems")


def _at_the_end(text: str, root: MappingNode, proposals: Sequence[Proposal]) -> str:
    lines = text.splitlines(keepends=True)
    at = len(lines)
    for number in range(root.start_mark.line, len(lines)):
        if lines[number].rstrip() == "...":
            at = number
    before, after = "".join(lines[:at]), "".join(lines[at:])
    if before and not before.endswith("\n"):
        before += "\n"
    return f"{before}\n{KEY}:\n{_block(proposals, 2)}{after}"


def _in_place_of_nothing(text: str, key: Node, node: Node, proposals: Sequence[Proposal]) -> str:
    """`models: []` or `models:` becomes a list; a comment behind it stays."""
    head = text[: key.end_mark.index] + ":"
    tail = text[node.end_mark.index :] if node.end_mark.index > key.end_mark.index else text[key.end_mark.index + 1 :]
    rest, _, following = tail.partition("\n")
    comment = rest.strip().removeprefix(":").strip()
    return f"{head}{'  ' + comment if comment else ''}\n{_block(proposals, key.start_mark.column + 2)}{following}"


def _after_the_last(text: str, node: SequenceNode, proposals: Sequence[Proposal]) -> str:
    """Behind the last item and the comments that belong to it, at the items' own indent."""
    indent = node.start_mark.column
    lines = text.splitlines(keepends=True)
    at = _last_line(node) + 1
    while at < len(lines) and _goes_on(lines[at], indent):
        at += 1
    before = "".join(lines[:at])
    if not before.endswith("\n"):
        before += "\n"
    return before + _block(proposals, indent) + "".join(lines[at:])


def _goes_on(line: str, indent: int) -> bool:
    """Whether a line behind an item's last value is still the item's: a comment, or text of a block, deeper than its dash."""
    return bool(line.strip()) and len(line) - len(line.lstrip(" ")) > indent


def _last_line(node: Node) -> int:
    """The line on which the last value within a node begins or ends, without what follows a block."""
    if isinstance(node, (SequenceNode, MappingNode)) and node.value and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    block = isinstance(node, ScalarNode) and node.style in ("|", ">")
    return int(node.start_mark.line if block else node.end_mark.line)


def _into_flow(text: str, node: SequenceNode, proposals: Sequence[Proposal]) -> str:
    end = node.value[-1].end_mark.index
    return text[:end] + "".join(f", {_json(each)}" for each in proposals) + text[end:]


def _into_flow_root(text: str, root: MappingNode, found: Any, proposals: Sequence[Proposal]) -> str:
    added = ", ".join(_json(each) for each in proposals)
    if found is None:
        end = root.value[-1][1].end_mark.index if root.value else root.start_mark.index + 1
        return f'{text[:end]}{", " if root.value else ""}"{KEY}": [{added}]{text[end:]}'
    node = found[1]
    if isinstance(node, SequenceNode) and node.value:
        return _into_flow(text, node, proposals)
    return f"{text[: node.start_mark.index]}[{added}]{text[node.end_mark.index :]}"


def _json(proposal: Proposal) -> str:
    told = json.dumps(plain(proposal.model), ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", told)


def _block(proposals: Sequence[Proposal], indent: int) -> str:
    return "".join(_item(each, indent) for each in proposals)


def _item(proposal: Proposal, indent: int) -> str:
    origin = "".join(letter if letter.isprintable() else "?" for letter in proposal.origin)
    body = yaml.dump([plain(proposal.model)], Dumper=_Plain, sort_keys=False, width=WIDTH, allow_unicode=True)
    lines = [f"# adopted from {origin}", *body.rstrip("\n").split("\n")]
    return "".join(" " * indent + line + "\n" for line in lines)


def plain(section: Section) -> dict[str, Any]:
    """An entry as a file has it: only what differs from its defaults, quantities with their units."""
    told: dict[str, Any] = {}
    for field in fields(section):
        value = getattr(section, field.name)
        if field.required or value != _default(field):
            told[field.name] = _written(value)
    return told


def _default(field: Any) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _written(value: Any) -> Any:
    if isinstance(value, Section):
        return plain(value)
    if isinstance(value, Size):
        return written_bytes(value)
    if isinstance(value, Duration):
        return f"{int(value)}s" if value.is_integer() else f"{round(value * 1000)}ms"
    return value


class _Plain(yaml.SafeDumper):
    """YAML as people write it here: lists and small mappings on one line, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Everything is written out."""
        return True


def _sequence(dumper: _Plain, value: list[Any]) -> SequenceNode:
    flow = all(not isinstance(each, (dict, list)) for each in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flow)


def _mapping(dumper: _Plain, value: dict[str, Any]) -> MappingNode:
    flow = _OF_AN_ENTRY not in value
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=flow)


def _text(dumper: _Plain, value: str) -> ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if _UNPRINTABLE.search(value) else None)


_OF_AN_ENTRY: Final = "engine"
_Plain.add_representer(str, _text)
_Plain.add_representer(list, _sequence)
_Plain.add_representer(dict, _mapping)
