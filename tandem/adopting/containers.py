"""`docker run` and `podman run`: their options apart from the image and its command, rewritten for a card and a port of ours."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from tandem.adopting.commands import program_at
from tandem.adopting.shaping import HELD_CARD

PROGRAMS: Final = ("docker", "podman")
_SWITCHES: Final = re.compile(
    r"--(rm|init|privileged|read-only|detach|interactive|tty|no-healthcheck|oom-kill-disable|publish-all|sig-proxy|quiet"
    r"|disable-content-trust)(=.*)?|-[ditPq]+"
)
_DETACHED: Final = re.compile(r"--detach(=true)?|-[itPq]*d[itPq]*")
_PUBLISHED: Final = re.compile(
    r"(?:(?P<ip>\d+(?:\.\d+){3}|\[[0-9a-f:]+\]|localhost):)?(?:(?P<host>[^:/]*):)?(?P<inside>\d{1,5})(/tcp)?"
)
_DEVICES: Final = re.compile(r"device=([^\"']+)")

GPUS: Final = f'"device={HELD_CARD}"'
"""The value of --gpus; the quotes are docker's own, without which commas between cards would end it."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option of `run`; `value` is None for a switch."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A `run` command: what stands before `run`, its options, the image, and the words after it."""

    head: tuple[str, ...]
    options: tuple[Option, ...]
    image: str
    arguments: tuple[str, ...]

    def values(self, *names: str) -> list[str]:
        """The values of these options, in their order."""
        return [each.value for each in self.options if each.name in names and each.value is not None]

    @property
    def words(self) -> list[str]:
        """The command in full."""
        told = [word for each in self.options for word in (each.name, each.value) if word is not None]
        return [*self.head, *told, self.image, *self.arguments]

    @property
    def detached(self) -> bool:
        """Whether it would leave the container behind and end, so that nobody could tell when that ends."""
        return any(each.value is None and _DETACHED.fullmatch(each.name) for each in self.options)

    @property
    def devices(self) -> str | None:
        """The cards that --gpus names, by commas; empty for all of them, None where it asks for none."""
        gpus = self.values("--gpus")
        if not gpus:
            return None
        found = _DEVICES.search(gpus[-1])
        return found[1] if found else ""

    def outside(self, path: str) -> str | None:
        """Where a path of the container lies on the host, by its bind mounts; None where none covers it."""
        best: tuple[int, str] | None = None
        for mount in self.values("-v", "--volume"):
            source, target, *_ = [*mount.split(":"), ""]
            inside = posixpath.normpath(target) if target else ""
            covers = inside and (path == inside or path.startswith(inside.rstrip("/") + "/"))
            if covers and source.startswith("/") and (best is None or len(inside) > best[0]):
                best = (len(inside), posixpath.normpath(source + "/" + path[len(inside) :]))
        return best[1] if best else None

    def attached(self) -> Container:
        """The same, staying with its container until that ends."""
        kept = tuple(each for each in self.options if not _DETACHED.fullmatch(each.name) or each.value is not None)
        return replace(self, options=kept)

    def with_values(self, name: str, change: Sequence[tuple[str, str]]) -> Container:
        """The same with values of that option replaced, each (old, new)."""
        new = dict(change)
        options = [replace(each, value=new.get(each.value or "", each.value)) if each.name == name else each
                   for each in self.options]  # fmt: skip
        return replace(self, options=tuple(options))


def read(words: Sequence[str]) -> Container | None:
    """The container that the words run; None where they run none."""
    at = program_at(words)
    if at + 1 >= len(words) or posixpath.basename(words[at]) not in PROGRAMS:
        return None
    verbs = 2 if words[at + 1 : at + 3] == ["container", "run"] else 1
    if words[at + verbs] != "run":
        return None
    options: list[Option] = []
    rest = list(words[at + verbs + 1 :])
    while rest and rest[0].startswith("-") and rest[0] != "--":
        word = rest.pop(0)
        if _SWITCHES.fullmatch(word):
            options.append(Option(word))
        elif word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            options.append(Option(name, value))
        elif rest:
            options.append(Option(word, rest.pop(0)))
    if rest[:1] == ["--"]:
        rest.pop(0)
    return Container(tuple(words[: at + verbs + 1]), tuple(options), rest[0], tuple(rest[1:])) if rest else None


@dataclass(frozen=True, slots=True)
class Published:
    """A port of the container on the host, as `-p` writes it; `host` is empty where docker chooses."""

    address: str
    host: str
    inside: str


def published(text: str) -> Published | None:
    """What a `-p` or a short port of a compose file says; None for a range, for UDP, or for what is none."""
    found = _PUBLISHED.fullmatch(text)
    return Published(found["ip"] or "", found["host"] or "", found["inside"]) if found else None
