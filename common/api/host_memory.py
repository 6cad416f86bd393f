"""What a host has beside its cards, and what of it is leased."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from common.api.words import Bytes, Message

Cores = Annotated[float, Meta(ge=0, le=65_536, description="CPU cores")]


class HostMemory(Message, frozen=True):
    """What a host has beside its cards: capacity, the ceiling of what may be leased of it, and what is leased.

    Grantable is what a lease could get now: below the ceiling, below what everybody else leaves free, and beside what is
    reserved: kept for requests for which room was made. `reason` says why nothing is, where the host could not be measured.
    """

    host: str
    ram_total_bytes: Bytes
    ram_ceiling_bytes: Bytes
    ram_leased_bytes: Bytes
    ram_available_bytes: Bytes
    disk_ceiling_bytes: Bytes
    disk_leased_bytes: Bytes
    cpu_ceiling_cores: Cores
    cpu_leased_cores: Cores
    ram_grantable_bytes: Bytes = 0
    ram_others_bytes: Bytes = 0
    disk_total_bytes: Bytes = 0
    disk_available_bytes: Bytes = 0
    disk_grantable_bytes: Bytes = 0
    cpu_total_cores: Cores = 0.0
    ram_reserved_bytes: Bytes = 0
    disk_reserved_bytes: Bytes = 0
    cpu_reserved_cores: Cores = 0.0
    reason: str = ""
