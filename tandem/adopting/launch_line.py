"""A command line of another tool into what a managed model needs: template, engine, cards, files, size; each change is noted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from common.config.model_rules import MAX_FILES, URL, is_loopback
from common.config.models import CAPABILITIES, EngineKind, Model
from tandem.adopting import commands, containers
from tandem.adopting.containers import Container
from tandem.adopting.proposal import Facts, Kind
from tandem.adopting.shaping import (
    HELD_CARD,
    HELD_PORT,
    Untranslatable,
    fit_name,
    guessed,
    narrowed,
    on_loopback,
    on_port,
    templated,
    written_bytes,
)

CARDS: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
ON_ITS_CARD: Final = "it runs on the card that it leases, whichever that is"
Told = tuple[Kind, str, str]
"""What became of a part: the kind of the note, the key it stood under, and the reason."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A model made of a line, without what the line does not say, and what its size was guessed from."""

    model: Model
    basis: str

    @property
    def told(self) -> str:
        """The guess, as a note says it."""
        return f"vram {written_bytes(self.model.vram)} is a guess: {self.basis}"


@dataclass(frozen=True, slots=True)
class LaunchLine:
    """A command as far as it is understood; `words` are the engine's own, inside a container or not."""

    words: tuple[str, ...]
    container: Container | None
    engine: EngineKind
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)
    listed: str = ""
    port: int = 0
    notes: tuple[Told, ...] = ()

    def noting(self, kind: Kind, key: str, message: str) -> LaunchLine:
        """The same, with a note."""
        return replace(self, notes=(*self.notes, (kind, key, message)))

    @property
    def full(self) -> list[str]:
        """The whole command."""
        return list(self.words) if self.container is None else self.container.words

    def settled(self, name: str, facts: Facts) -> Settled:
        """The model that the line starts. Untranslatable where it cannot be one."""
        cards = commands.cards(self.engine, self.words, self.listed)
        files = self.files()
        guess = guessed(self.engine, self.words, name, files, cards, facts)
        image = self.container.image if self.container else ""
        model = Model(
            name=name,
            engine=self.engine,
            vram=guess.size,
            command=templated(self.full),
            cwd=self.cwd if self._is_relative() and facts.is_folder(self.cwd) else "",
            env=dict(zip(self.env, templated(list(self.env.values())), strict=True)),
            port=self.port,
            files=files[:MAX_FILES],
            upstream=self.upstream(name),
            capabilities=narrowed(commands.capabilities(self.engine, self.words, image), CAPABILITIES[self.engine]),
            slots=commands.users(self.engine, self.words),
            cards=cards,
        )
        return Settled(model, guess.basis)

    def files(self) -> list[str]:
        """Its weights, as they lie on the host."""
        if self.container is None:
            return commands.weights(self.words, self.cwd)
        inside = commands.weights(self.words, "/")
        return [path for path in map(self.container.outside, inside) if path is not None]

    def upstream(self, name: str) -> str:
        """What vLLM calls the model, where that is not `name`: a request for another name would be refused."""
        if self.engine != "vllm":
            return ""
        served = commands.option(self.words, "--served-model-name", "--served_model_name")
        after = [word for before, word in pairwise(self.words) if before == "serve"]
        own = served or commands.option(self.words, "--model") or next(iter(after), "")
        return "" if own == name else own

    def _is_relative(self) -> bool:
        apart = [word for word in self.words if not word.startswith(("/", "-", "{")) and "://" not in word]
        return any("/" in word or word.lower().endswith(commands.WEIGHTS) for word in apart)


def read(text: str, cwd: str, facts: Facts) -> LaunchLine:
    """A command line as a shell's words; relative paths are from `cwd`. Untranslatable says why it can be no template."""
    if commands.is_of_windows(text):
        raise Untranslatable("names a path of Windows", "write the path that it has on this machine")
    try:
        words = commands.split(text)
    except ValueError as error:
        raise Untranslatable(f"cannot be split into words: {error}") from None
    return of_words(words, cwd, facts)


def of_words(words: Sequence[str], cwd: str, facts: Facts) -> LaunchLine:
    """The same from words."""
    if not words:
        raise Untranslatable("has no command")
    container = containers.read(words)
    if container is None:
        local = on_loopback(words)
        line = LaunchLine(tuple(local), None, commands.engine_of(words), cwd)
        told = "it listens on loopback; Tandem serves it to others"
        return line if local == list(words) else line.noting("changed", "cmd", told)
    engine = commands.engine_of(container.arguments, container.image)
    return _contained(LaunchLine(container.arguments, container, engine, ""))


def _contained(line: LaunchLine) -> LaunchLine:
    """A container attached to its command, on the card that is leased, published on loopback."""
    assert line.container is not None
    container = line.container
    if container.detached:
        container = container.attached()
        line = line.noting("changed", "cmd", "the container stays attached, so that its end is seen")
    devices = container.devices
    if devices is not None:
        container = container.with_values("--gpus", [(value, containers.GPUS) for value in container.values("--gpus")])
        line = replace(line, listed=devices).noting("changed", "cmd", ON_ITS_CARD)
    for flag in ("-e", "--env"):
        asked = [value for value in container.values(flag) if value.partition("=")[0] in CARDS]
        container = container.with_values(flag, [(value, f"{value.partition('=')[0]}={HELD_CARD}") for value in asked])
    ports = {value: containers.published(value) for value in container.values("-p", "--publish")}
    local = [
        (text, f"127.0.0.1:{port.host}:{port.inside}") for text, port in ports.items() if port and not port.address
    ]
    for flag in ("-p", "--publish"):
        container = container.with_values(flag, local)
    return replace(line, container=container)


def with_environment(line: LaunchLine, env: Mapping[str, str]) -> LaunchLine:
    """The line with its variables; those that choose cards are left to the lease."""
    kept = {key: value for key, value in env.items() if key not in CARDS}
    chosen = [env[key] for key in CARDS if key in env]
    line = replace(line, env=kept)
    if not chosen:
        return line
    return replace(line, listed=line.listed or chosen[0]).noting("changed", "env", ON_ITS_CARD)


def on_own_port(line: LaunchLine, proxy: str) -> LaunchLine:
    """The line with its port held open, as `proxy` (an address; empty: none is told) or the line itself says it."""
    held = HELD_PORT
    address = URL.fullmatch(proxy.replace(held, "1")) if proxy else None
    if proxy and (address is None or not is_loopback(address["host"].strip("[]"))):
        raise Untranslatable(f"answers at {proxy}, not on this machine", "list it in the startup file of that machine")
    if any(held in word for word in (*line.full, *line.env.values())):
        return line
    fixed = (address["port"] if address and held not in proxy else None) or ""
    opened = _opened(line, fixed) if fixed else None
    if opened is not None:
        return opened.noting("changed", "cmd", f"not port {fixed} but one that is free at its start")
    if fixed:
        return replace(line, port=int(fixed))
    if line.container is None and line.engine in ("llama-server", "vllm") and not commands.has(line.words, "--port"):
        return replace(line, words=(*line.words, "--port", held))
    raise Untranslatable("says nowhere on which port it listens", "give it --port ${PORT}")


def _opened(line: LaunchLine, port: str) -> LaunchLine | None:
    if line.container is None:
        words = on_port(line.words, port)
        if words is not None:
            return replace(line, words=tuple(words))
        said = on_port([f"{key}={value}" for key, value in line.env.items()], port)
        return replace(line, env=dict(entry.split("=", 1) for entry in said)) if said else None
    changes = []
    for text in line.container.values("-p", "--publish"):
        told = containers.published(text)
        if told is not None and told.host == port:
            changes.append((text, f"{told.address}:{HELD_PORT}:{told.inside}"))
    if not changes:
        return None
    container = line.container
    for flag in ("-p", "--publish"):
        container = container.with_values(flag, changes)
    return replace(line, container=container)


def served_name(line: LaunchLine, fallback: str) -> str:
    """What clients call the model: the name that vLLM or llama-server is told to serve it as, else `fallback`."""
    told = commands.option(line.words, "--served-model-name", "--served_model_name", "--alias", "-a")
    return fit_name(re.split(r"[\s,]", told)[0] if told else fallback)
