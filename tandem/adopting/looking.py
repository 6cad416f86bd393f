"""Looks at what runs on this machine: listening ports, processes, who holds VRAM, and which engine answers where.

It only looks: it connects to loopback, asks engines what they tell anybody, reads /proc and NVML. It claims no card, signals no
process and loads no model. What was seen is judged in running.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import msgspec
import psutil

from common.config.model_rules import is_loopback
from common.config.models import EngineKind
from common.config.settings import MARK, Settings
from common.engines.exchange import Exchange, deadline
from common.engines.opening import DEFAULT_PORTS, open_engine, recognise
from common.errors import TandemError, Unavailable
from common.gpu import process_identity
from common.gpu.cards import CardSource
from common.gpu.nvml import NvmlCards
from common.gpu.simulated import SimulatedCards, cards_folder
from common.vram.cards import CardSample
from tandem.adopting import ollama_models
from tandem.adopting.ollama_models import Tag
from tandem.adopting.running import Broker, Holders, Process, Seen, held_by, ports_to_ask

Shape = TypeVar("Shape")

USUAL_PORTS: Final = (*DEFAULT_PORTS, 1234, 5000, 5001, 8081, 30000)
"""Where engines listen unless told otherwise: also LM Studio, TabbyAPI, KoboldCpp, SGLang, and a second of any."""
OWN_PORTS: Final = frozenset({7080, 7081})
"""Tandem's own HTTP."""
ASK_S: Final = 5.0
MAX_SHOWN: Final = 200
"""Of so many of Ollama's models it is asked what they can do."""
LEASED: Final = "TANDEM_LEASE_ID"


@dataclass(frozen=True, slots=True)
class Look:
    """All that was seen at one moment; `card_bytes` is the largest card's."""

    seen: tuple[Seen, ...]
    brokers: tuple[Broker, ...]
    processes: Mapping[int, Process]
    holders: Holders
    card_bytes: int


async def look(samples: Sequence[CardSample], usual: Sequence[int] = USUAL_PORTS) -> Look:
    """What runs here now, on the cards of these samples and elsewhere."""
    holders = holding(samples)
    listening = listeners()
    processes = known_processes({*holders, *listening.values()} - {0})
    ports = [port for port in ports_to_ask(listening, holders, processes, usual) if port not in OWN_PORTS]
    answers = await asyncio.gather(*(ask(port, listening[port]) for port in ports))
    seen = [each for each in answers if isinstance(each, Seen)]
    held = {each.port: held_by(each.pid, holders, processes) for each in seen}
    return Look(
        seen=tuple(replace(each, vram_bytes=held[each.port][0], cards=held[each.port][1]) for each in seen),
        brokers=tuple(each for each in answers if isinstance(each, Broker)),
        processes=processes,
        holders=holders,
        card_bytes=largest(samples),
    )


def sampled(host: str, settings: Settings) -> list[CardSample]:
    """This machine's cards as they are now: NVML's, else the simulated ones of `host`, else none. No card is claimed."""
    source: CardSource
    try:
        if settings.leave_real_cards:
            raise Unavailable("real cards are not to be touched")
        source = NvmlCards(host)
    except Unavailable:
        try:
            source = SimulatedCards(host, cards_folder(settings.home, host))
        except Unavailable:
            return []
    try:
        return source.sample(time.monotonic())
    finally:
        source.close()


def holding(samples: Iterable[CardSample]) -> dict[int, dict[str, int]]:
    """The VRAM that each process holds, by card; 0 where the card hides how much."""
    held: dict[int, dict[str, int]] = {}
    for sample in samples:
        for use in sample.processes or ():
            held.setdefault(use.pid, {})[sample.uuid] = use.used_bytes or 0
    return held


def largest(samples: Iterable[CardSample]) -> int:
    """The total bytes of the largest card that works; 0 without one."""
    return max((sample.total_bytes for sample in samples if not sample.problem), default=0)


def listeners() -> dict[int, int]:
    """The TCP ports that answer on loopback, and the process of each; 0 for another user's."""
    found: dict[int, int] = {}
    for each in psutil.net_connections("tcp"):
        if (
            each.status == psutil.CONN_LISTEN
            and each.laddr
            and (each.laddr.ip in ("0.0.0.0", "::") or is_loopback(each.laddr.ip))
        ):
            found[each.laddr.port] = each.pid or found.get(each.laddr.port, 0)
    return found


def known_processes(pids: Iterable[int]) -> dict[int, Process]:
    """These processes and those that they come from; one that has ended meanwhile is left out."""
    known: dict[int, Process] = {}
    for pid in pids:
        line = [each.pid for each in process_identity.lineage(pid)]
        for index, each in enumerate(line):
            if each not in known:
                known[each] = _process(each, tuple(line[index + 1 :]))
    return known


def _process(pid: int, ancestors: tuple[int, ...]) -> Process:
    command: list[str] = []
    environ: dict[str, str] = {}
    with suppress(psutil.Error, OSError):
        command = psutil.Process(pid).cmdline()
        environ = psutil.Process(pid).environ()
    return Process(pid, tuple(command), ancestors, supervised=MARK in environ, leased=LEASED in environ)


async def ask(port: int, pid: int) -> Seen | Broker | None:
    """Who answers at a port of loopback; None where it is no engine."""
    url = f"http://127.0.0.1:{port}"
    if await _is_llama_swap(url):
        return Broker("llama-swap", port, pid)
    kind = await recognise(url, ASK_S)
    if kind is None:
        return None
    if kind == "ollama":
        return Seen(kind, port, pid=pid, tags=tuple(await _tags(url)))
    return Seen(kind, port, tuple(await _models(kind, url)), pid, slots=await _slots(kind, url))


class _Running(msgspec.Struct, frozen=True):
    running: list[dict[str, object]]


class _Props(msgspec.Struct, frozen=True):
    total_slots: int = 0


class _Shown(msgspec.Struct, frozen=True):
    capabilities: list[str] = []


async def _is_llama_swap(url: str) -> bool:
    """llama-swap lists the models that it runs at `/running`, which no engine has."""
    return await _told(url, "/running", _Running) is not None


async def _slots(kind: EngineKind, url: str) -> int:
    """How many llama-server takes at a time; 0 where another one does not tell."""
    told = await _told(url, "/props", _Props) if kind == "llama-server" else None
    return max(0, min(told.total_slots, 4_096)) if told is not None else 0


async def _models(kind: EngineKind, url: str) -> list[str]:
    engine = open_engine(kind, url)
    try:
        return await engine.models(ASK_S)
    except TandemError:
        return []
    finally:
        await engine.close()


async def _tags(url: str) -> list[Tag]:
    """Ollama's models with their sizes, and what the first of them can do."""
    found = await _told(url, "/api/tags", ollama_models.Tags)
    tags = list(found.models or []) if found is not None else []
    shown = [await _shown(url, tag) for tag in tags[:MAX_SHOWN]]
    return [*shown, *tags[MAX_SHOWN:]]


async def _shown(url: str, tag: Tag) -> Tag:
    told = await _told(url, "/api/show", _Shown, {"model": tag.name})
    return tag if told is None else msgspec.structs.replace(tag, capabilities=told.capabilities)


async def _told(url: str, path: str, shape: type[Shape], body: Mapping[str, str] | None = None) -> Shape | None:
    """What is answered at a path as that type; None where it is something else."""
    exchange = Exchange(url)
    try:
        answer = await exchange.ask("POST" if body else "GET", path, deadline(ASK_S), body=body)
        return answer.read(shape)
    except TandemError:
        return None
    finally:
        await exchange.close()
