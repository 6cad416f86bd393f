"""A fabric that is not there: tests ask it in place of the one that may run on this machine, on the well-known ports.

What a program is not told of it looks for on those ports, and there its errors, agents and leases would be somebody's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.client.directory import Directory, Place

NOWHERE: Final = ",".join(f"{name}=1:1@127.0.0.1" for name in Directory().names())
"""TANDEM_SERVICES with every service and supervisor where nobody listens."""


def only(*places: str) -> str:
    """TANDEM_SERVICES with these places (`Name=port[:events_port]@address`), and nobody anywhere else; each name once."""
    return nobody_but(*places).render()


def nobody_but(*places: str) -> Directory:
    """The same as a directory."""
    return Directory.parse(",".join((NOWHERE, *places)))


def alone(places: Mapping[str, Place]) -> Directory:
    """A directory of these places, and nobody anywhere else."""
    nobody = nobody_but()
    return Directory({name: place for name in nobody.names() if (place := nobody.place(name)) is not None} | places)
