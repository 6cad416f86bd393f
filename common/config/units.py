"""Sizes and durations as people write them: `4GiB`, `500ms`; never guesses what an ambiguous unit meant."""

from __future__ import annotations

import math
import re
from typing import Final

from common.errors import BadRequest
from common.ids import MAX_WIRE_INT

BYTES_OF: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
"""Decimal units (SI) and binary ones (IEC 80000-13), by their names in capitals."""

SECONDS_OF: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
MAX_SECONDS: Final = 31_536_000.0
"""A year: no wait of ours is longer."""

_QUANTITY: Final = re.compile(r"(\d{1,16}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)


class Size(int):
    """A number of bytes; in a file `4GiB`, `500MB` or a bare number of bytes."""


class Duration(float):
    """A number of seconds; in a file `5s`, `500ms`, `2m` or a bare number of seconds."""


def parse_bytes(text: str) -> Size:
    """The bytes that `text` says, rounded down to whole ones; `BadRequest` says what is wrong with it."""
    number, unit = _quantity(text, "a size", "4GiB or 500MB")
    if unit.upper() in ("K", "M", "G", "T"):
        binary, decimal = f"{unit.upper()}iB", f"{unit.upper()}B"
        raise BadRequest(f"{text!r} may mean {number}{binary} or {number}{decimal}; write which")
    if unit and unit.upper() not in BYTES_OF:
        raise BadRequest(f"{text!r} has no unit of size we know; write B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    value = _times(number, BYTES_OF[unit.upper() or "B"])
    if value > MAX_WIRE_INT:
        raise BadRequest(f"{text!r} is more than the largest size, {format_bytes(MAX_WIRE_INT)}")
    return Size(value)


def _times(number: str, factor: int) -> int:
    whole, _, fraction = number.partition(".")
    scale: int = 10 ** len(fraction)
    return int(whole) * factor + int(fraction or "0") * factor // scale


def format_bytes(count: int) -> str:
    """`count` bytes with one decimal in the largest binary unit that leaves at least one: `10.0 GiB`, `512 B`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def parse_seconds(text: str) -> Duration:
    """The seconds that `text` says, at most a year; `BadRequest` says what is wrong with it."""
    number, unit = _quantity(text, "a duration", "5s or 500ms")
    if unit and unit not in SECONDS_OF:
        raise BadRequest(f"{text!r} has no unit of time we know; write ms, s, m, h or d")
    value = float(number) * SECONDS_OF[unit or "s"]
    if value > MAX_SECONDS:
        raise BadRequest(f"{text!r} is longer than a year, the longest duration")
    return Duration(value)


def format_seconds(seconds: float) -> str:
    """`seconds` in one or two units, short enough for a table: `85 ms`, `4.2 s`, `3m 05s`, `2h 10m`, `5d 03h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for upper, big, small, names in ((3_600, 60, 1, "ms"), (86_400, 3_600, 60, "hm")):
        if whole < upper:
            return f"{whole // big}{names[0]} {whole % big // small:02d}{names[1]}"
    return f"{whole // 86_400}d {whole % 86_400 // 3_600:02d}h"


def _quantity(text: str, what: str, examples: str) -> tuple[str, str]:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise BadRequest(f"{text!r} is not {what} such as {examples}")
    return found[1], found[2]
