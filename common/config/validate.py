"""What the parts of startup files say about each other: names, ports, dependencies, commands; never reads anything.

Several hosts' files may be judged together, as when all of them run on one machine: then a dependency across hosts must
exist, a circle through two files shows, and hosts that share an address share its ports. What an address may be is for
`address_rules`, what a model may be for `model_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common.config import address_rules, model_rules
from common.config.document import Document, Place, Problem
from common.config.schema import Entry, Startup, qualified
from common.config.sections import Launched


@dataclass(frozen=True, slots=True)
class Machine:
    """What only the machine can tell: whether a command can be run on it, what is a folder, its cores by number."""

    runnable: Callable[[Startup, Launched], bool]
    is_folder: Callable[[str], bool]
    cpus: frozenset[int]


RESERVED: Final = {
    port + offset: owner
    for port, owner in (
        (7000, "core_orchestrator"),
        (7001, "resource_manager"),
        (7002, "observability_hub"),
        (7003, "error_bus"),
        (7005, "security_gateway"),
        (7090, "supervisor"),
        (7091, "supervisor"),
    )
    for offset in (0, 500, 1000)
} | {7080: "console", 7081: "front"}
"""Well-known ports and who may have them, on every host: relays offer one host's services on the others' loopback."""

OWN_NAME: Final = "supervisor"
"""The supervisor's own name, in ports and logs."""

KEY_NAMES: Final = frozenset({"relay", "host", "operator", "keyring", "trust"})
"""A process's key lies in a file of its name; these are the host's own files beside it."""

ENTRY_MINIMA: Final[tuple[tuple[tuple[str, str], float, str], ...]] = (
    (("health", "timeout_s"), 0.01, "10ms"),
    (("health", "ready_within_s"), 0.1, "100ms"),
    (("logs", "max_bytes"), 4096, "4KiB"),
)
"""Below these no probe can be answered, nothing can become ready, and a log would hold no line."""
VITALS_MINIMUM_S: Final = 0.1
"""Sampling vitals more often costs more than a core of a small machine."""

PORT_FIELDS: Final = ("port", "events_port", "health_check_port")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file under judgement: where its values stand, and what was read from it."""

    document: Document
    startup: Startup


def judge(candidates: Sequence[Candidate], machine: Machine) -> list[Problem]:
    """Every problem of meaning in these files, in the order of files and lines."""
    found: list[Problem] = []
    for candidate in candidates:
        found += _names(candidate)
        found += address_rules.judge(candidate.document, candidate.startup)
        found += _commands(candidate, machine)
        found += _places(candidate, machine)
        found += _texts(candidate)
        found += _minima(candidate)
        found += _dependencies(candidate, candidates)
        found += model_rules.judge(candidate.document, candidate.startup)
    found += model_rules.judge_together([(candidate.document, candidate.startup) for candidate in candidates])
    found += _hosts(candidates)
    found += _ports(candidates)
    found += _circles(candidates)
    order = {candidate.document.file: index for index, candidate in enumerate(candidates)}
    return sorted(found, key=lambda problem: (order[problem.file], problem.line))


def _placed(startup: Startup) -> Iterator[tuple[Place, Entry]]:
    for index, service in enumerate(startup.services):
        yield ("services", index), service
    for index, agent in enumerate(startup.agents):
        yield ("agents", index), agent


def _launched(startup: Startup) -> Iterator[tuple[Place, Launched]]:
    """All that has a command, also models."""
    yield from _placed(startup)
    for index, model in enumerate(startup.models):
        if model.command:
            yield ("models", index), model


def _hosts(candidates: Sequence[Candidate]) -> Iterator[Problem]:
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        first = seen.setdefault(candidate.startup.host, candidate)
        if first is not candidate:
            message = f"{candidate.startup.host} is already the host of {first.document.file}"
            yield candidate.document.problem(("host",), message, "give each host a name of its own")


def _names(candidate: Candidate) -> Iterator[Problem]:
    first: dict[str, Place] = {}
    for place, entry in _placed(candidate.startup):
        if entry.name == OWN_NAME:
            yield candidate.document.problem(
                (*place, "name"), f"{OWN_NAME} is the supervisor's own name", "choose another"
            )
        if entry.name in KEY_NAMES:
            message = f"{entry.name} is the name of one of the host's own key files"
            yield candidate.document.problem((*place, "name"), message, "choose another")
        if entry.name and first.setdefault(entry.name, place) != place:
            line = candidate.document.line((*first[entry.name], "name"))
            message = f"{entry.name} is already the name of line {line}'s process"
            yield candidate.document.problem((*place, "name"), message, "names are unique on a host")


def _commands(candidate: Candidate, machine: Machine) -> Iterator[Problem]:
    idle = {("models", index) for index, model in enumerate(candidate.startup.models) if not model.enabled}
    for place, _ in _placed(candidate.startup):
        if candidate.document.at((*place, "command")) == []:
            yield candidate.document.problem(
                (*place, "command"), "the command is empty", "write [program, argument, ...]"
            )
    for place, entry in _launched(candidate.startup):
        where = (*place, "command")
        if entry.command and place not in idle and not machine.runnable(candidate.startup, entry):
            message = f"there is no program {entry.command[0]!r} to run"
            yield candidate.document.problem(where, message, "install it, or give its full path")


def _places(candidate: Candidate, machine: Machine) -> Iterator[Problem]:
    """Where entries run: in a folder that is there, on cores that are."""
    for place, entry in _launched(candidate.startup):
        if _can_be_passed(entry.cwd) and entry.cwd and not machine.is_folder(entry.cwd):
            yield candidate.document.problem((*place, "cwd"), f"{entry.cwd} is no folder", "make it, or name another")
        absent = sorted(set(entry.limits.cpus) - machine.cpus)
        if absent:
            wrong = f"this machine has no core {', '.join(map(str, absent))}"
            mend = f"choose from {', '.join(map(str, sorted(machine.cpus)))}"
            yield candidate.document.problem((*place, "limits", "cpus"), wrong, mend)


def _texts(candidate: Candidate) -> Iterator[Problem]:
    """What no program can be started with (execve(2)): a text that holds a NUL or is no Unicode, a variable without a name."""
    for place, entry in _launched(candidate.startup):
        texts: list[tuple[Place, str]] = [(("cwd",), entry.cwd)]
        texts += ((("command", index), word) for index, word in enumerate(entry.command))
        texts += ((("env", key), text) for key, text in entry.env.items())
        for where, text in texts:
            if not _can_be_passed(text):
                wrong = f"{text!r} cannot be given to a program"
                yield candidate.document.problem((*place, *where), wrong, "mend the text")
        for key in entry.env:
            if not key or "=" in key or not _can_be_passed(key):
                yield candidate.document.problem((*place, "env"), f"{key!r} cannot name a variable", "rename it")


def _can_be_passed(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _minima(candidate: Candidate) -> Iterator[Problem]:
    if candidate.startup.vitals_interval_s < VITALS_MINIMUM_S:
        yield candidate.document.problem(("vitals_interval_s",), "too often", "write 100ms or more")
    for place, entry in _placed(candidate.startup):
        for (section, key), least, told in ENTRY_MINIMA:
            if getattr(getattr(entry, section), key) < least:
                yield candidate.document.problem((*place, section, key), "too small to work", f"write {told} or more")


def _dependencies(candidate: Candidate, candidates: Sequence[Candidate]) -> Iterator[Problem]:
    for place, entry in _placed(candidate.startup):
        for key, names in (("depends_on", entry.depends_on), ("after", entry.after)):
            for index, name in enumerate(names):
                wrong = _dependency(candidate.startup, entry, name, candidates)
                if wrong:
                    yield candidate.document.problem((*place, key, index), *wrong)


def _dependency(startup: Startup, entry: Entry, name: str, candidates: Sequence[Candidate]) -> tuple[str, str] | None:
    """What is wrong with depending on `name`, and its mend."""
    host, _, process = qualified(startup.host, name).partition("/")
    if (host, process) == (startup.host, entry.name):
        return f"{entry.name} depends on itself", "take it out"
    there = startup if host == startup.host else next((c.startup for c in candidates if c.startup.host == host), None)
    if there is None:
        known = host in startup.peers
        return None if known else (f"{name} is on {host}, which is not among the peers", f"add {host} to peers")
    names = [other.name for other in there.entries]
    if process in names:
        return None
    import difflib

    close = difflib.get_close_matches(process, names, n=1)
    return f"{host} has no process {process!r}", f"did you mean {close[0]}?" if close else "add it, or take this out"


def _ports(candidates: Sequence[Candidate]) -> Iterator[Problem]:
    taken: dict[tuple[str, int], tuple[str, str]] = {}
    for candidate in candidates:
        for place, name, port in _claims(candidate.startup):
            owner = RESERVED.get(port)
            if owner not in (None, name):
                yield candidate.document.problem(
                    place, f"port {port} is {owner}'s well-known port", "choose another, or 0"
                )
            claim = f"{candidate.startup.host}/{name} ({place[-1]})"
            holder = _take(taken, candidate, port, claim, place)
            if holder:
                yield candidate.document.problem(place, f"port {port} is already {holder}", "choose another, or 0")


def _claims(startup: Startup) -> Iterator[tuple[Place, str, int]]:
    for key in PORT_FIELDS:
        if port := getattr(startup.supervisor, key):
            yield ("supervisor", key), "supervisor", port
    for place, entry in _placed(startup):
        for key in PORT_FIELDS:
            if port := getattr(entry, key):
                yield (*place, key), entry.name, port
    for index, model in enumerate(startup.models):
        if model.port and model.enabled:
            yield ("models", index, "port"), model.label, model.port


def _take(
    taken: dict[tuple[str, int], tuple[str, str]], candidate: Candidate, port: int, claim: str, place: Place
) -> str:
    """Claims `port` on each of the host's addresses; who holds it already, with file and line, or nothing."""
    here = f"{candidate.document.file}:{candidate.document.line(place)}"
    holder = ""
    for address in {"127.0.0.1", *candidate.startup.listen}:
        first = taken.setdefault((address, port), (claim, here))
        if first != (claim, here):
            holder = f"{first[0]}'s, {first[1]}"
    return holder


def _circles(candidates: Sequence[Candidate]) -> Iterator[Problem]:
    """Each circle of depends_on and after once, named from its first process in the files' order."""
    edges: dict[str, list[str]] = {}
    places: dict[str, tuple[Document, Place]] = {}
    for candidate in candidates:
        host = candidate.startup.host
        for place, entry in _placed(candidate.startup):
            node = qualified(host, entry.name)
            edges.setdefault(node, [qualified(host, name) for name in (*entry.depends_on, *entry.after)])
            places.setdefault(node, (candidate.document, place))
    for circle in _find_circles(edges):
        document, place = places[circle[0]]
        told = " -> ".join([*circle, circle[0]])
        yield document.problem(place, f"a circle of dependencies: {_short(told, candidates)}", "cut it at one place")


def _short(told: str, candidates: Sequence[Candidate]) -> str:
    return told.replace(f"{candidates[0].startup.host}/", "") if len(candidates) == 1 else told


def _find_circles(edges: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """One circle per back edge of a depth-first walk (Tarjan 1972), without recursion; self edges are told elsewhere."""
    found: list[list[str]] = []
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            node, step = stack.pop()
            if step == 0:
                if node in done or node not in edges:
                    continue
                path.append(node)
            if step == len(edges[node]):
                done.add(path.pop())
                continue
            stack.append((node, step + 1))
            following = edges[node][step]
            if following in path:
                circle = path[path.index(following) :]
                if len(circle) > 1:
                    found.append(circle)
            else:
                stack.append((following, 0))
    return found
