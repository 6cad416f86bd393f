"""Identifiers: a kind, a dash and 64 random bits in hex, such as `lease-3f2a09c1d4e5b677`; never parsed for meaning."""

from __future__ import annotations

from typing import Final, Literal

from common.clock import Rng

Kind = Literal["lease", "req", "task", "op", "boot", "key", "client", "launch"]

MAX_WIRE_INT: Final = 2**53 - 1
"""The largest integer every JSON reader keeps exactly (RFC 8259, section 6)."""


def new_id(kind: Kind, rng: Rng) -> str:
    """A fresh identifier; two collide with odds of about 1 in 2**64 per pair."""
    return f"{kind}-{rng.getrandbits(64):016x}"
