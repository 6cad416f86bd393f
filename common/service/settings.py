"""Where a process stands in the fabric, as its shell is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

VERSION: Final = "0.1.0"


@dataclass(frozen=True, slots=True)
class ShellSettings:
    """Where a process stands; port 0 is chosen by the system, events or health port None is not opened.

    `addresses` are explicit. The first must be there at start and is served in plain, so it is a loopback one; the others are
    encrypted with the key pair in the file `keys` (the keyring lies beside it) and retried until they are there. A process
    without keys checks nobody: `lone` says that it was started by hand, so that whoever reaches its loopback may control it.
    """

    service: str
    host: str
    port: int
    events_port: int | None = None
    health_port: int | None = None
    addresses: tuple[str, ...] = ("127.0.0.1",)
    keys: Path | None = None
    lone: bool = True
    metadata: dict[str, Any] = field(default_factory=dict)
