"""What requests turned out to need: the hosts of cards lease what they have measured of a model, whatever was declared of it.

A supervisor decides by what it has learned (common/vram/footprint.py); here it is only remembered what it said, so that the next
request is planned where it fits, and not where it merely would by what it declares.
"""

from __future__ import annotations

from typing import Final

from common.api.decisions import PlanLease
from common.api.leases import AcquireLease

REMEMBERED: Final = 1_024

Key = tuple[str, str, int]


class Needs:
    """The bytes that hosts leased or asked for instead of those declared, for the last `limit` sizes of models."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._bytes: dict[Key, int] = {}

    def of(self, asked: AcquireLease | PlanLease) -> int:
        """What to plan the request with."""
        return self._bytes.get(_key(asked), asked.bytes)

    def learned(self, asked: AcquireLease, need_bytes: int) -> None:
        """A host leased so many bytes for the request, or refused it for want of them."""
        key = _key(asked)
        self._bytes.pop(key, None)
        if need_bytes == asked.bytes:
            return
        if len(self._bytes) >= self._limit:
            del self._bytes[next(iter(self._bytes))]
        self._bytes[key] = need_bytes


def _key(asked: AcquireLease | PlanLease) -> Key:
    return asked.model, asked.config, asked.bytes
