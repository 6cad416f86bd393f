"""Which process listens at a loopback port of this machine, and what its family holds on the cards without a lease."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import psutil

from common.api.leases import Card
from common.gpu import process_identity
from common.vram.cards import ProcessId


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


def unleased(owner: ProcessId, cards: Iterable[Card]) -> Mapping[str, int]:
    """What the process and its descendants hold on each card as strangers, by the card's UUID."""
    family = {each.pid for each in process_identity.family(owner)}
    held = {card.card_uuid: sum(one.bytes for one in card.strangers if one.pid in family) for card in cards}
    return {uuid: amount for uuid, amount in held.items() if amount}
