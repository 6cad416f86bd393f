"""Any value as text or JSON that may be written down: secrets hidden, lengths and depths bounded, whatever the value does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.ids import MAX_WIRE_INT
from common.telemetry.redaction import HIDDEN, is_secret_name, redact

TEXT_CHARS: Final = 6_000
NAME_CHARS: Final = 128
_OVERLAP_CHARS: Final = 2_000  # read beyond a cut, so that a secret across it is seen whole
_ITEMS: Final = 32

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


def shown_end(text: str) -> str:
    """The end of a long text, such as a stack, where the error is."""
    return _unicode(redact(text[-TEXT_CHARS - _OVERLAP_CHARS :])[-TEXT_CHARS:])


def shown(value: object, most: int) -> str:
    """The value as text, redacted and cut."""
    safe = redact(spelt(value)[: most + _OVERLAP_CHARS])
    if len(safe) > most:
        safe = safe[:most] + "..."
    return _unicode(safe)


def _unicode(text: str) -> str:
    """The text with lone surrogates spelt out, for no UTF-8 stream takes them."""
    return text.encode("utf-8", "backslashreplace").decode()


def spelt(value: object) -> str:
    """The value as text, with its secrets, whatever its `__str__` does."""
    try:
        return str(value)
    except Exception:  # a value is logged as well as it lets itself be
        return f"<{type(value).__name__} that cannot be shown>"


def without_secrets(value: object, depth: int) -> Json:
    """The value as bounded JSON, secrets hidden by name and by look."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= MAX_WIRE_INT:
        return int(value)
    if isinstance(value, float) and abs(value) < float("inf"):
        return float(value)
    if isinstance(value, Mapping) and depth:
        return {
            shown(name, NAME_CHARS): _under(spelt(name), item, depth - 1) for name, item in list(value.items())[:_ITEMS]
        }
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return [without_secrets(item, depth - 1) for item in list(value)[:_ITEMS]]
    return shown(value, TEXT_CHARS)


def _under(name: str, value: object, depth: int) -> Json:
    return HIDDEN if value is not None and is_secret_name(name) else without_secrets(value, depth)
