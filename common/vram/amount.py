"""Bytes as people read them, in binary units; never parsed back."""

from __future__ import annotations

from typing import Final

MIB: Final = 2**20
GIB: Final = 2**30


def amount(n: int) -> str:
    """`n` bytes with one decimal in GiB, whole MiB below a tenth of a GiB, or bytes below a MiB: `10.0 GiB`, `64 MiB`, `9 B`."""
    if 0 < n < MIB:
        return f"{n} B"
    if 0 < n < GIB // 10:
        return f"{n / MIB:.0f} MiB"
    return f"{n / GIB:.1f} GiB"
