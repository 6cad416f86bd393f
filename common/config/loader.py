"""YAML files into startup files: reads, notes the line of every value, and judges all files of a start at once.

A file is data and nothing else: tags that would build objects are refused, as are repeated keys, and size, depth and the
number of values (aliases counted each time) are bounded before anything is built. It starts nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from common.config.decode import decode
from common.config.document import Document, Place, Problem
from common.config.schema import Startup, fill
from common.config.sections import Launched
from common.config.settings import Settings
from common.config.validate import Candidate, Machine, judge

MAX_FILE_BYTES: Final = 512 * 1024
MAX_DEPTH: Final = 40
MAX_VALUES: Final = 50_000
_PLAIN_TAGS: Final = "tag:yaml.org,2002:"


def load(path: Path, *, machine: Machine | None = None) -> Startup | list[Problem]:
    """The startup file at `path`, or every problem it has; it stands alone, so other hosts' processes are taken on trust."""
    startups, problems = load_together([path], machine=machine)
    return problems or startups[0]


def load_together(paths: Sequence[Path], *, machine: Machine | None = None) -> tuple[list[Startup], list[Problem]]:
    """The startup files of hosts that share this machine, judged together, or none and every problem that any of them has."""
    problems: list[Problem] = []
    candidates: list[Candidate] = []
    for path in paths:
        document = read(path)
        if isinstance(document, Document):
            startup, wrong = decode(document)
            problems += (*document.problems, *wrong)
            candidates.append(Candidate(document, startup))
        else:
            problems.append(document)
    problems += judge(candidates, machine or this_machine())
    order = [str(path) for path in paths]
    problems.sort(key=lambda problem: (order.index(problem.file), problem.line))
    return ([] if problems else [candidate.startup for candidate in candidates]), problems


def this_machine() -> Machine:
    """What this machine has for the entries of a startup file."""
    return Machine(runnable, os.path.isdir, frozenset(os.sched_getaffinity(0)))


def runnable(startup: Startup, entry: Launched) -> bool:
    """Whether the program of an entry or a model is there, as a path or on the PATH it will have."""
    home = str(Settings.read().home / startup.host)
    program = fill(entry.command[0], python=sys.executable, home=home, host=startup.host)
    where = Path(entry.cwd or ".") / program if "/" in program else program
    return shutil.which(where, path=entry.env.get("PATH")) is not None


def read(path: Path) -> Document | Problem:
    """The file as plain values with their lines, or why it cannot be read as such."""
    try:
        raw = _bounded(path)
        return _Walk(str(path)).document(raw.decode())
    except OSError as error:
        return Problem(str(path), 1, (), f"cannot be read: {error.strerror}", "check the path and its permissions")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Problem(str(path), line, (), "is not UTF-8", "save it as UTF-8")
    except yaml.YAMLError as error:
        return _unreadable(str(path), error)
    except RecursionError:
        return Problem(str(path), 1, (), f"is nested deeper than {MAX_DEPTH} levels", "flatten it")
    except _Refused as refusal:
        return refusal.problem


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise _Refused(Problem(str(path), 1, (), f"is larger than {MAX_FILE_BYTES} bytes", "split it"))
    return raw


def _unreadable(file: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    told = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed"
    mend = "indent with spaces, not tabs" if "'\\t'" in told else ""
    return Problem(file, mark.line + 1 if mark else 1, (), f"is not YAML: {told}", mend)


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Walk:
    """One pass over YAML's nodes: values out, lines noted, bounds kept."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Place, int] = {}
        self.values = 0
        self.problems: list[Problem] = []

    def document(self, text: str) -> Document:
        self.loader = yaml.SafeLoader(text)
        try:
            node = self.loader.get_single_node()
            value = self.value(node, ()) if node else None
            return Document(self.file, value, self.lines, tuple(self.problems))
        finally:
            self.loader.dispose()

    def value(self, node: Node, place: Place) -> object:
        self.values += 1
        self.lines.setdefault(place, node.start_mark.line + 1)
        if len(place) > MAX_DEPTH:
            raise self.refusal(node, place[:3], f"is nested deeper than {MAX_DEPTH} levels", "flatten it")
        if self.values > MAX_VALUES:
            raise self.refusal(node, place, f"holds more than {MAX_VALUES} values", "aliases count each time")
        if not node.tag.startswith(_PLAIN_TAGS) or node.tag.startswith(f"{_PLAIN_TAGS}python/"):
            raise self.refusal(node, place, f"tag {node.tag!r} is not plain data", "take the tag out")
        if isinstance(node, MappingNode):
            return self.mapping(node, place)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        return self.scalar(node, place)

    def scalar(self, node: Node, place: Place) -> object:
        assert isinstance(node, ScalarNode)
        try:
            return self.loader.construct_object(node)
        except ValueError as error:
            raise self.refusal(node, place, f"{node.value!r} cannot be read: {error}", "put it in quotes") from None

    def mapping(self, node: MappingNode, place: Place) -> dict[str, object]:
        own: dict[str, object] = {}
        merged: dict[str, object] = {}
        for key, item in node.value:
            if key.tag == f"{_PLAIN_TAGS}merge":
                merged = self.merge(item, place) | merged
                continue
            name = key.value
            if not isinstance(name, str) or key.tag != f"{_PLAIN_TAGS}str":
                self.problems.append(self.refusal(key, place, "a key is not a text", "put it in quotes").problem)
                continue
            if name in own:
                self.problems.append(self.refusal(key, (*place, name), "the key is there twice", "keep one").problem)
                continue
            self.lines[*place, name] = key.start_mark.line + 1
            own[name] = self.value(item, (*place, name))
        return merged | own

    def merge(self, node: Node, place: Place) -> dict[str, object]:
        """What `<<` brings in (YAML merge key, 2005): earlier mappings of a list win over later ones."""
        if isinstance(node, MappingNode):
            self.values += 1
            value = self.value(node, place)
            assert isinstance(value, dict)
            return value
        if not isinstance(node, SequenceNode) or not all(isinstance(item, MappingNode) for item in node.value):
            raise self.refusal(node, place, "`<<` takes a mapping or a list of them", "merge an anchored mapping")
        brought: dict[str, object] = {}
        for item in node.value:
            brought = self.merge(item, place) | brought
        return brought

    def refusal(self, node: Node, place: Place, message: str, mend: str) -> _Refused:
        return _Refused(Problem(self.file, node.start_mark.line + 1, place, message, mend))
