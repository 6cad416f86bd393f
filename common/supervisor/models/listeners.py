"""Which process listens at a loopback port of this machine, why none is seen, and what it holds on cards without a lease."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import psutil

from common.api.gpus import Card
from common.config.models import Model
from common.gpu import process_identity
from common.vram.cards import ProcessId

STARTS: Final[Mapping[str, str]] = {"ollama": "`ollama serve`, or its service"}
"""How an engine that is run by others is usually started."""


def port_of(url: str) -> int:
    """The port of an engine's address."""
    parts = urlsplit(url)
    return parts.port or {"https": 443}.get(parts.scheme, 80)


def listener(port: int) -> ProcessId | None:
    """The process that listens there, pinned; None where none may be seen. It reads all of /proc: call it aside."""
    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    pids = {each.pid for each in found if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port}
    return next((process for pid in sorted(filter(None, pids)) if (process := process_identity.identify(pid))), None)


def absence(model: Model) -> str:
    """Why the process of an engine that is run by others is not to be seen; empty where it is. Call it aside, as `listener`."""
    port = port_of(model.url)
    if listener(port) is not None:
        return ""
    if port in _taken():
        return f"who listens at {model.url} is not to be seen from here: {model.engine} has to run under the supervisor's user"
    start = STARTS.get(model.engine, "as it is otherwise")
    return f"{model.engine} is not running at {model.url}: start it ({start}), or give its entry a `command` for `url`"


def _taken() -> set[int]:
    """The ports at which anybody listens, whoever that is."""
    with suppress(psutil.Error, OSError):
        found = psutil.net_connections("tcp")
        return {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN and each.laddr}
    return set()


def unleased(owner: ProcessId, cards: Iterable[Card]) -> Mapping[str, int]:
    """What the process and its descendants hold on each card as strangers, by the card's UUID."""
    family = {each.pid for each in process_identity.family(owner)}
    held = {card.card_uuid: sum(one.bytes for one in card.strangers if one.pid in family) for card in cards}
    return {uuid: amount for uuid, amount in held.items() if amount}
