"""What every translator does alike: names made fit, sizes guessed, words of a command made a template; pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from common.config.models import Capability, EngineKind
from common.config.template import fields_in
from common.config.units import Size, format_bytes
from tandem.adopting import commands, sizing
from tandem.adopting.proposal import Facts

HELD_PORT: Final = "\ue000"
HELD_CARD: Final = "\ue001"
"""Stand for {port} and {card_uuid} while a text is looked through for braces that are somebody else's."""
_PORTED: Final = "port|listen|bind"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@ -]{0,127}")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.:/@ -]")


class Untranslatable(Exception):
    """Why no model can be made of something, and what to do about it."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Guess:
    """A size, and what it was taken from."""

    size: Size
    basis: str


def fit_name(name: str) -> str:
    """`name` as a model can have it; empty where nothing of it is left."""
    if _NAME.fullmatch(name):
        return name
    return _NOT_IN_NAMES.sub("-", name).lstrip(".:/@ -")[:128].rstrip(" -")


def templated(words: Sequence[str]) -> list[str]:
    """Words whose held places become template fields. Untranslatable where other braces would be filled in by mistake."""
    for word in words:
        others = fields_in(word)
        if others:
            raise Untranslatable(
                f"holds {others[0]}, which a command here would fill in", "give it by a file or a variable"
            )
    return [word.replace(HELD_PORT, "{port}").replace(HELD_CARD, "{card_uuid}") for word in words]


def on_port(words: Sequence[str], port: str) -> list[str] | None:
    """The words with a fixed port of theirs held open instead; None where they do not say it.

    Only a number that stands for a port counts: behind an option or a variable that names one, or behind a local address.
    """
    said = re.compile(
        rf"((?:{_PORTED})[=\s]|(?:127\.0\.0\.1|localhost|0\.0\.0\.0):){re.escape(port)}(?!\d)", re.IGNORECASE
    )
    changed = [said.sub(rf"\g<1>{HELD_PORT}", word) for word in words]
    for index, (before, word) in enumerate(pairwise(words), 1):
        if word == port and (before in ("-p", "-P", "-l") or re.search(rf"({_PORTED})$", before, re.IGNORECASE)):
            changed[index] = HELD_PORT
    return changed if changed != list(words) else None


def on_loopback(words: Sequence[str]) -> list[str]:
    """The words with an engine's `--host 0.0.0.0` made loopback: others reach it through Tandem."""
    changed = list(words)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--host", "--listen", "-H") and value in ("0.0.0.0", "::"):
            changed[index] = f"{name}{equals}127.0.0.1"
        elif word in ("0.0.0.0", "::") and index and words[index - 1] in ("--host", "--listen", "-H"):
            changed[index] = "127.0.0.1"
    return changed


def guessed(
    engine: EngineKind, words: Sequence[str], name: str, files: Sequence[str], cards: int, facts: Facts
) -> Guess:
    """What a model may take on each of its cards, from the best that is known."""
    if commands.on_cpu(words):
        return Guess(Size(0), "it computes on the CPU")
    share = commands.fraction(words, "--gpu-memory-utilization", "--gpu_memory_utilization")
    if engine == "vllm":
        taken = sizing.of_card(facts.card_bytes, share or sizing.UTILISATION)
        if taken is not None:
            return Guess(taken, f"vLLM takes {share or sizing.UTILISATION:g} of a card")
    if engine == "llama-server" and commands.number(words, "-ngl", "--n-gpu-layers", "--gpu-layers") == 0:
        return Guess(Size(sizing.GIB), "its layers stay in host memory")
    there = [size for size in map(facts.file_bytes, files) if size is not None]
    size = sizing.of_files(there)
    if size is not None:
        return Guess(sizing.split(size, cards), f"{format_bytes(sum(there))} of files")
    bits = 16.0 if engine == "vllm" else 4.8
    for told in (*map(posixpath.basename, files), *_model_words(words), name):
        size = sizing.of_name(told, default_bits=bits)
        if size is not None:
            return Guess(sizing.split(size, cards), f"what {told!r} says of itself")
    return Guess(sizing.UNKNOWN, "nothing: neither its files nor its name tell")


def _model_words(words: Sequence[str]) -> list[str]:
    named = [commands.option(words, "-hf", "--hf-repo", "-hfr", "--model", "-m")]
    served = [word for before, word in pairwise(words) if before == "serve"]
    return [word for word in (*named, *served) if word]


def written_bytes(count: int) -> str:
    """Bytes as a startup file has them: in the largest unit that divides them."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def narrowed(served: Sequence[Capability], usual: Sequence[Capability]) -> list[Capability]:
    """Capabilities for an entry: none where they are what its engine serves anyway."""
    return [] if tuple(served) == tuple(usual) else list(served)
