"""Where a process stands in the fabric, as its shell is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

VERSION: Final = "0.1.0"


@dataclass(frozen=True, slots=True)
class ShellSettings:
    """Where a process stands; port 0 is chosen by the system, events or health port None is not opened.

    `addresses` are explicit; the first must be there at start, the others are retried until they are.
    """

    service: str
    host: str
    port: int
    events_port: int | None = None
    health_port: int | None = None
    addresses: tuple[str, ...] = ("127.0.0.1",)
    metadata: dict[str, Any] = field(default_factory=dict)
