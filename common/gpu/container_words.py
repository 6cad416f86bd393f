"""The words of `docker run`, `podman run` and `nerdctl run`: found in a command, read, and given a card. It runs nothing.

A container's processes descend from the engine's daemon, so it sees a card only if the engine is told, and is known only by the
cgroup that the engine makes for it. What the user said of cards or of a cidfile stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

import msgspec

DOCKER: Final = "docker"
PODMAN: Final = "podman"
ENGINES: Final = (DOCKER, PODMAN, "nerdctl")

# fmt: off
_BEFORE: Final = {
    "-D", "--debug", "--tls", "--tlsverify", "-v", "--version", "--help", "-r", "--remote", "--syslog", "--noout",
    "--transient-store",
}
"""Options of the engine itself that take no value; any other takes one."""
_FLAGS: Final = {
    "--detach", "--disable-content-trust", "--env-host", "--help", "--http-proxy", "--init", "--interactive",
    "--no-healthcheck", "--no-hostname", "--no-hosts", "--oom-kill-disable", "--passwd", "--privileged",
    "--publish-all", "--quiet", "--read-only", "--read-only-tmpfs", "--replace", "--rm", "--rmi", "--rootfs",
    "--sig-proxy", "--tls-verify", "--tty", "--unsetenv-all", "--use-api-socket",
}
"""Options of `run` that take no value; any other takes one."""
# fmt: on
_SHORT_FLAGS: Final = "ditPq"
_CARDS: Final = ("--gpus", "--device", "--env", "-e")


class ContainerRun(msgspec.Struct, frozen=True):
    """A command that runs a container: `program` begins it, the options of `run` are `words[first:image]`."""

    engine: str
    program: tuple[str, ...]
    words: tuple[str, ...]
    first: int
    image: int
    options: tuple[tuple[str, str], ...]

    @property
    def detached(self) -> bool:
        """Whether it would go on without the command."""
        return any(name in ("-d", "--detach") and value not in ("false", "0") for name, value in self.options)

    @property
    def cidfile(self) -> str:
        """Where the user has the container's id written; empty: nowhere."""
        return next((value for name, value in self.options if name == "--cidfile"), "")

    @property
    def cards(self) -> tuple[str, ...]:
        """What the user said himself of the cards that the container sees."""
        return tuple(value for name, value in self.options if name in _CARDS and _names_cards(name, value))

    def with_cards(self, uuids: Sequence[str], lease_id: str, cidfile: str) -> list[str]:
        """The command with these cards, a label with the lease's id, and a file for the container's id, where none was given."""
        added = [f"--label=tandem.lease={lease_id}"]
        if not self.cidfile:
            added.append(f"--cidfile={cidfile}")
        if uuids and not self.cards:
            added += _card_words(self.engine, uuids)
        return [*self.words[: self.first], *added, *self.words[self.first :]]


def container_run(words: Sequence[str]) -> ContainerRun | None:
    """The command as one that runs a container; None where it is none, or names no image."""
    start = 1 if len(words) > 1 and PurePath(words[0]).name == "sudo" else 0
    engine = PurePath(words[start]).name if words else ""
    if engine not in ENGINES:
        return None
    at = start + 1
    while at < len(words) and words[at].startswith("-"):
        at += 1 if "=" in words[at] or words[at] in _BEFORE else 2
    program = tuple(words[:at])
    if words[at : at + 1] == ["container"] or words[at : at + 1] == ("container",):
        at += 1
    if at >= len(words) or words[at] != "run":
        return None
    options, image = _options(words, at + 1)
    return ContainerRun(engine, program, tuple(words), at + 1, image, options) if image < len(words) else None


def _options(words: Sequence[str], at: int) -> tuple[tuple[tuple[str, str], ...], int]:
    """The options from `at` on, each with its value, and where they end."""
    found: list[tuple[str, str]] = []
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-", "--"):
        following = words[at + 1] if at + 1 < len(words) else ""
        parsed, taken = _long(words[at], following) if words[at].startswith("--") else _short(words[at], following)
        found += parsed
        at += taken
    return tuple(found), at + 1 if words[at : at + 1] in (["--"], ("--",)) else at


def _long(word: str, following: str) -> tuple[list[tuple[str, str]], int]:
    name, equals, value = word.partition("=")
    if equals:
        return [(name, value)], 1
    return ([(name, "")], 1) if name in _FLAGS else ([(name, following)], 2)


def _short(word: str, following: str) -> tuple[list[tuple[str, str]], int]:
    """A cluster such as `-itv DIR`: flags, then at most one option with a value, which may follow without a space."""
    found: list[tuple[str, str]] = []
    for place, letter in enumerate(word[1:], 2):
        rest = word[place:]
        if letter not in _SHORT_FLAGS:
            return [*found, (f"-{letter}", rest.removeprefix("=") or following)], 1 if rest else 2
        if rest.startswith("="):
            return [*found, (f"-{letter}", rest[1:])], 1
        found.append((f"-{letter}", ""))
    return found, 1


def _names_cards(name: str, value: str) -> bool:
    if name == "--device":
        return "nvidia" in value
    if name in ("--env", "-e"):
        return value.startswith("NVIDIA_VISIBLE_DEVICES=")
    return name == "--gpus"


def _card_words(engine: str, uuids: Sequence[str]) -> list[str]:
    """The engine's way to show a container these cards: CDI names for Podman, Docker's own option for the others.

    Docker reads the value as CSV, so that several cards need quotes that are part of it.
    """
    if engine == PODMAN:
        return [f"--device=nvidia.com/gpu={uuid}" for uuid in uuids]
    devices = f"device={','.join(uuids)}"
    return ["--gpus", f'"{devices}"' if len(uuids) > 1 else devices]
