"""Engines seen running on this machine into managed models at their addresses; restarts nothing and asks nothing.

Which process belongs to which engine, and which of them Tandem looks after already, is decided here from what was seen.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from common.config.models import CAPABILITIES, Capability, EngineKind, Model
from common.config.units import Size, format_bytes
from tandem.adopting import commands, ollama_models, sizing
from tandem.adopting.ollama_models import Tag
from tandem.adopting.proposal import Findings, Proposal
from tandem.adopting.shaping import fit_name, narrowed, written_bytes

NAMES: Final[dict[str, str]] = {
    "llama-server": "llama-server", "vllm": "vLLM", "ollama": "Ollama", "comfyui": "ComfyUI", "openai": "an OpenAI server",
}  # fmt: skip


Holders = Mapping[int, Mapping[str, int]]
"""The VRAM of each process by its pid, on each card by the card's UUID."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was seen: what it is called, what it was started with, and those it comes from, nearest first."""

    pid: int
    command: tuple[str, ...] = ()
    ancestors: tuple[int, ...] = ()
    supervised: bool = False
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """An engine that answered: its models as it lists them, its process, and the VRAM of that one's family on each card."""

    engine: EngineKind
    port: int
    models: tuple[str, ...] = ()
    pid: int = 0
    vram_bytes: int = 0
    cards: int = 1
    slots: int = 0
    tags: tuple[Tag, ...] = ()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Broker:
    """A program that starts engines of its own, such as llama-swap; they are its, until its configuration is imported."""

    name: str
    port: int
    pid: int = 0


def ports_to_ask(
    listening: Mapping[int, int], holders: Iterable[int], processes: Mapping[int, Process], usual: Sequence[int]
) -> list[int]:
    """The ports that may be an engine's: those engines usually have, and those of processes with VRAM and of their ancestors.

    `listening` has the process of each port on loopback (0 where it is not told), `holders` are those with VRAM.
    """
    family = {pid for holder in holders for pid in (holder, *_ancestors(processes, holder))}
    theirs = [port for port, pid in listening.items() if pid in family]
    return sorted({*theirs, *(port for port in usual if port in listening)})


def held_by(pid: int, holders: Holders, processes: Mapping[int, Process]) -> tuple[int, int]:
    """What a process and all that come from it hold on each card, and on how many: engines load in children of their own.

    A card with less than a quarter of the fullest one's is not counted: a CUDA context is no part of a model.
    """
    cards: Counter[str] = Counter()
    for holder, uses in holders.items():
        if pid and (pid == holder or pid in _ancestors(processes, holder)):
            cards.update(uses)
    fullest = max(cards.values(), default=0)
    return fullest, sum(count * 4 >= fullest > 0 for count in cards.values())


def outermost(seen: Sequence[Seen], processes: Mapping[int, Process]) -> list[Seen]:
    """Those engines that no other one started: Ollama's runners speak like llama-servers, and are Ollama's own affair."""
    pids = {each.pid for each in seen if each.pid}
    return [each for each in seen if not pids & set(_ancestors(processes, each.pid))]


def proposed(
    seen: Sequence[Seen],
    brokers: Sequence[Broker],
    processes: Mapping[int, Process],
    host: str,
    holders: Holders = MappingProxyType({}),
) -> Findings:
    """Models for the engines that Tandem does not look after yet, with a note on each other engine and holder of VRAM."""
    found = Findings(host)
    for pid, count in unknown(seen, brokers, processes, holders):
        command = " ".join(processes[pid].command)[:80] if pid in processes else ""
        told = f"{command or 'a process'} holds {format_bytes(count)} of VRAM and answers nowhere as an engine"
        found.note("skipped", 0, f"pid {pid}", told, "started by `tandem run` it would have a lease")
    for broker in brokers:
        mend = "import its configuration: `tandem adopt CONFIG.yaml`"
        found.note(
            "skipped", 0, f"127.0.0.1:{broker.port}", f"is {broker.name}, which starts and stops engines itself", mend
        )
    owned = {broker.pid: broker.name for broker in brokers if broker.pid}
    for each in outermost(seen, processes):
        reason = _looked_after(each, owned, processes)
        if reason:
            found.note("skipped", 0, f"127.0.0.1:{each.port}", f"{NAMES[each.engine]} {reason}")
        elif each.engine == "ollama":
            inner = Findings(f"{host} 127.0.0.1:{each.port}")
            ollama_models.of_tags(inner, each.tags, each.url)
            found.proposals += inner.proposals
            found.notes += inner.notes
            if not each.tags:
                found.note(
                    "skipped", 0, f"127.0.0.1:{each.port}", "Ollama has no model yet", "`ollama pull MODEL`, then again"
                )
        else:
            _add(found, each, host, processes[each.pid].command if each.pid in processes else ())
    return found


def unknown(
    seen: Sequence[Seen], brokers: Sequence[Broker], processes: Mapping[int, Process], holders: Holders
) -> list[tuple[int, int]]:
    """The processes with VRAM that belong to nothing that answered and to no supervisor, and what each holds."""
    known = {each.pid for each in seen} | {broker.pid for broker in brokers}
    looked_after = {pid for pid, process in processes.items() if process.leased or process.supervised}
    return [
        (pid, sum(uses.values()))
        for pid, uses in sorted(holders.items())
        if pid not in looked_after and not known & {pid, *_ancestors(processes, pid)} - {0}
    ]


def _looked_after(seen: Seen, owned: Mapping[int, str], processes: Mapping[int, Process]) -> str:
    """Who looks after an engine already; empty for nobody."""
    process = processes.get(seen.pid)
    if process is None:
        return ""
    if process.leased:
        return "holds a lease already"
    if process.supervised:
        return "was started by a supervisor of Tandem"
    broker = next((owned[pid] for pid in (seen.pid, *process.ancestors) if pid in owned), "")
    return f"was started by {broker}" if broker else ""


def _add(found: Findings, seen: Seen, host: str, command: Sequence[str]) -> None:
    models = ("comfyui",) if seen.engine == "comfyui" else seen.models  # its workflows choose among its checkpoints
    if not models:
        found.note("skipped", 0, f"127.0.0.1:{seen.port}", f"{NAMES[seen.engine]} lists no model")
    for name in models:
        fit = fit_name(_stem(name))
        if not fit:
            found.note("skipped", 0, f"127.0.0.1:{seen.port}", f"{name!r} can be no name")
            continue
        since = len(found.notes)
        vram, basis = _size(seen, name, len(models), command)
        if basis:
            found.note("guessed", 0, fit, f"vram {written_bytes(vram)} is a guess: {basis}")
        model = Model(
            name=fit,
            engine=seen.engine,
            vram=vram,
            url=seen.url,
            upstream="" if fit == name or seen.engine == "comfyui" else name,
            slots=seen.slots,
            cards=max(1, min(seen.cards, 16)),
            capabilities=narrowed(_capabilities(seen.engine, name, command), CAPABILITIES[seen.engine]),
        )
        found.propose(Proposal(model, f"{host} 127.0.0.1:{seen.port}", 0), since)


def _capabilities(engine: EngineKind, name: str, command: Sequence[str]) -> list[Capability]:
    """By its command; a server of many models, such as LM Studio, is told apart by their names."""
    return commands.capabilities(engine, command) or (commands.capabilities_by_name(name) if engine == "openai" else [])


def _size(seen: Seen, name: str, models: int, command: Sequence[str]) -> tuple[Size, str]:
    """What it takes, and what that was guessed from; measured where its process's memory is its alone."""
    if seen.vram_bytes and models == 1:
        return sizing.measured(seen.vram_bytes), ""
    if commands.on_cpu(command) and not seen.vram_bytes:
        return Size(0), "it computes on the CPU"
    size = sizing.of_name(name, default_bits=16.0 if seen.engine == "vllm" else 4.8)
    return (size, f"what {name!r} says of itself") if size else (sizing.UNKNOWN, "neither its memory nor its name tell")


def _stem(name: str) -> str:
    """A model's name of its own where the engine calls it by its file."""
    return posixpath.basename(name).removesuffix(".gguf") if name.startswith("/") or name.endswith(".gguf") else name


def _ancestors(processes: Mapping[int, Process], pid: int) -> tuple[int, ...]:
    return processes[pid].ancestors if pid in processes else ()
