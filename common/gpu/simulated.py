"""Cards where there are none: a folder stands for a card, and a process uses memory by writing a file of its own.

    <cards>/<index>/card.json                       what the card is, and which fault it shows
    <cards>/<index>/processes/<pid>-<start time>    the bytes that process uses, in decimal, replaced atomically

Used bytes are the sum over living processes; the files of dead ones are ignored and swept. The folder refuses nobody:
a sum above the total is shown as it is, so that over-commitment can be seen. Every sample says `simulated`.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from common.errors import Unavailable
from common.gpu import process_identity
from common.vram.cards import CardSample, CardVitals, ProcessId, ProcessUse

log = logging.getLogger(__name__)

SIMULATED_CARDS_VARIABLE: Final = "TANDEM_SIMULATED_CARDS"
"""The environment variable that tells a program where simulated cards are: folders of cards, separated by colons."""

GIB: Final = 2**30

_NAMESPACE: Final = uuid.UUID("6f1b3c9e-52d0-5a4e-8f43-0a6c2f9d7b15")
_USE_FILE: Final = re.compile(r"(\d{1,10})-(\d{1,19})")

MAX_DIGITS: Final = 15
"""A process uses less than a petabyte: sums of uses stay integers that every reader of JSON keeps exactly."""

Fault = Literal["", "lost", "reset_required", "memory_unreadable"]
FAULTS: Final[Mapping[Fault, str]] = MappingProxyType(
    {
        "lost": "the card has fallen off the bus",
        "reset_required": "the card needs a reset",
        "memory_unreadable": "its memory could not be read",
    }
)
Throttle = Literal["hw-thermal", "hw-power-brake", "hw-slowdown", "sw-thermal", "power-cap"]
Amount = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class CardFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of card.json; `hides` says what of its processes the card keeps to itself, as NVML in containers does.

    The figures of its health are those of common/vram/cards.CardVitals.
    """

    uuid: str
    name: str
    total_bytes: Amount
    reserved_bytes: Amount = 0
    temperature_c: float = 35.0
    utilization_pct: float = 0.0
    fault: Fault = ""
    hides: Literal["", "bytes", "processes"] = ""
    mig: bool = False
    slowdown_c: float = 90.0
    shutdown_c: float = 95.0
    throttled: tuple[Throttle, ...] = ()
    power_w: float = 0.0
    power_limit_w: float = 0.0
    uncorrected_errors: Amount = 0
    repair_pending: bool = False
    repair_failed: bool = False
    xids: tuple[Amount, ...] = ()


def card_uuid(host: str, index: int) -> str:
    """The same UUID for the same host and index always, in NVIDIA's form."""
    return f"GPU-{uuid.uuid5(_NAMESPACE, f'{host}:{index}')}"


def cards_folder(home: Path, host: str) -> Path:
    """The folder of a host's simulated cards under TANDEM_HOME."""
    return home / host / "cards"


def create_card(folder: Path, card: CardFile) -> None:
    """Makes `folder` that card, or makes the card there this one; its processes keep what they use."""
    (folder / "processes").mkdir(parents=True, exist_ok=True)
    _replace(folder / "card.json", msgspec.json.format(msgspec.json.encode(card)))


def ensure_cards(cards: Path, host: str, totals: Sequence[int], names: Sequence[str] = ()) -> None:
    """Creates the cards that are not there yet, with these total bytes and names by index; those that are stay as they are."""
    for index, (total, name) in enumerate(zip_longest(totals, names)):
        if not (cards / str(index) / "card.json").exists():
            file = CardFile(card_uuid(host, index), name or f"Simulated {total / GIB:g} GiB", total)
            create_card(cards / str(index), file)


def use_bytes(folder: Path, amount: int, process: ProcessId | None = None) -> None:
    """From now on `process` (default: this one) uses `amount` bytes of the card; 0 is the same as having ended."""
    process = process or process_identity.this_process()
    path = folder / "processes" / f"{process.pid}-{process.start_time}"
    if amount == 0:
        path.unlink(missing_ok=True)
    else:
        _replace(path, b"%d" % amount)


class SimulatedCards:
    """A host's simulated cards as a CardSource; looks at the folders afresh for every sample."""

    def __init__(self, host: str, cards: Path) -> None:
        """Raises Unavailable where `cards` holds none."""
        self._host = host
        self._cards = cards
        self._reported: set[Path] = set()
        if not self._indices():
            raise Unavailable(f"no simulated card on {host}: {cards} has no folder named by a number")

    def sample(self, now: float) -> list[CardSample]:
        """Every card's sample in the order of their indices."""
        return [self._sample_card(index, now) for index in self._indices()]

    def close(self) -> None:
        """Nothing is held."""

    def _indices(self) -> list[int]:
        try:
            return sorted(int(entry) for entry in os.listdir(self._cards) if entry.isdecimal())
        except OSError:
            return []

    def _sample_card(self, index: int, now: float) -> CardSample:
        folder = self._cards / str(index)
        try:
            card = msgspec.json.decode((folder / "card.json").read_bytes(), type=CardFile)
        except (OSError, msgspec.MsgspecError, UnicodeError) as error:
            card = CardFile(card_uuid(self._host, index), "", 0)
            problem = f"{folder / 'card.json'} cannot be read: {error}"
        else:
            problem = _problem(card)
        uses = [] if problem else self._uses(folder / "processes")
        used = sum(use.used_bytes or 0 for use in uses)
        return CardSample(
            host=self._host,
            index=index,
            uuid=card.uuid,
            name=card.name,
            total_bytes=card.total_bytes,
            free_bytes=0 if problem else max(0, card.total_bytes - card.reserved_bytes - used),
            used_bytes=used,
            processes=None if problem else _shown(card, uses),
            simulated=True,
            sampled_at=now,
            problem=problem,
            temperature_c=card.temperature_c,
            utilization_pct=card.utilization_pct,
            lost=card.fault == "lost",
            mig=card.mig,
            vitals=_vitals(card),
        )

    def _uses(self, processes: Path) -> list[ProcessUse]:
        try:
            entries = os.listdir(processes)
        except OSError:
            return []
        uses = (self._use(processes / entry) for entry in entries if not entry.startswith("."))
        return sorted((use for use in uses if use is not None), key=lambda use: use.pid)

    def _use(self, path: Path) -> ProcessUse | None:
        named = _USE_FILE.fullmatch(path.name)
        if named is None:
            self._report(path, "its name is not PID-START_TIME")
            return None
        pid, started = int(named[1]), int(named[2])
        if not process_identity.is_alive(pid, started):
            path.unlink(missing_ok=True)
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if not (content.strip().isdigit() and len(content) <= MAX_DIGITS):
            self._report(path, "its content is not a number of bytes")
            return None
        return ProcessUse(pid, started, process_identity.name(pid), int(content))

    def _report(self, path: Path, why: str) -> None:
        if path not in self._reported:
            self._reported.add(path)
            log.warning("%s is ignored: %s", path, why)


def _problem(card: CardFile) -> str:
    if card.fault:
        return f"{card.name}: {FAULTS[card.fault]}"
    return f"{card.name}: MIG is enabled, and Tandem leases whole cards only" if card.mig else ""


def _vitals(card: CardFile) -> CardVitals:
    return CardVitals(**{name: getattr(card, name) for name in CardVitals.__struct_fields__})


def _shown(card: CardFile, uses: list[ProcessUse]) -> tuple[ProcessUse, ...] | None:
    if card.hides == "processes":
        return None
    if card.hides == "bytes":
        return tuple(msgspec.structs.replace(use, used_bytes=None) for use in uses)
    return tuple(uses)


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
