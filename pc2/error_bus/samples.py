"""What is kept of single reports: cut to a size, without secrets, the first ones of a group and the newest; and a group's title.

It decides what a sample holds and in which place it is kept; which report becomes one is for `groups`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct, json

from common.api.error_bus import ErrorReport, ErrorSample, Severity
from common.ids import MAX_WIRE_INT
from pc2.error_bus.masking import READ_CHARS, mask
from pc2.error_bus.occurrence import timestamp_of
from pc2.error_bus.stacks import text_of

FIRST: Final = 3
NEWEST: Final = 5
TITLE_CHARS: Final = 300
MESSAGE_CHARS: Final = 2_048
STACK_CHARS: Final = 8_192
DETAILS_CHARS: Final = 4_096
DETAIL_CHARS: Final = 1_024
PER_VALUE_CHARS: Final = 8
DEPTH: Final = 6
OVERLAP_CHARS: Final = 2_000
"""Secrets are looked for this much beyond a cut, so that no half of one is left before it."""


class Hiding(NamedTuple):
    """How secrets are hidden: `text` hides those in a text, `is_secret` says whether a name stands for one."""

    text: Callable[[str], str]
    is_secret: Callable[[str], bool]
    hidden: str


class Sample(Struct, frozen=True, kw_only=True):
    """Row: the `number`-th sample of its group, counted from 0; `at` is seconds since 1970."""

    number: int
    agent: str
    host: str
    at: float
    severity: Severity
    message: str
    stack: str
    details: dict[str, Any]

    @property
    def place(self) -> int:
        """Where it is kept among its group's samples; of the newest each takes the oldest one's place."""
        return self.number if self.number < FIRST else FIRST + (self.number - FIRST) % NEWEST

    def chars(self) -> int:
        """Characters held for it, roughly."""
        return 256 + len(self.message) + len(self.stack) + len(json.encode(self.details))

    def shown(self) -> ErrorSample:
        """As it is told."""
        return ErrorSample(
            agent=self.agent,
            host=self.host,
            occurred_at=timestamp_of(self.at),
            severity=self.severity,
            message=self.message,
            stack=self.stack,
            details=self.details,
        )


def sample_of(report: ErrorReport, number: int, host: str, at: float, hiding: Hiding) -> Sample:
    """What is kept of one report."""
    return Sample(
        number=number,
        agent=report.agent,
        host=host,
        at=at,
        severity=report.severity,
        message=begin_of(report.message, MESSAGE_CHARS, hiding),
        stack=_ends_of(text_of(report.stack), STACK_CHARS, hiding),
        details=_Details(hiding).mapping(report.details),
    )


def title_of(report: ErrorReport, hiding: Hiding) -> str:
    """How a group is called beside its type: by the explicit fingerprint, else by the masked message of its first report.

    Secrets are hidden first: a masked key is no key any more that could be told, and most of it would stay.
    """
    if report.fingerprint:
        return begin_of(report.fingerprint, TITLE_CHARS, hiding)
    return mask(begin_of(report.message, READ_CHARS, hiding))[:TITLE_CHARS]


def begin_of(text: str, most: int, hiding: Hiding) -> str:
    """The beginning of a text, without secrets."""
    shown = hiding.text(text[: most + OVERLAP_CHARS])
    return shown if len(text) <= most else f"{shown[:most]}..."


def _ends_of(text: str, most: int, hiding: Hiding) -> str:
    """A quarter from the beginning of a long text and the rest from its end, where an error says most."""
    if len(text) <= most:
        return hiding.text(text)
    first, last = most // 4, most - most // 4
    end = hiding.text(text[-last - OVERLAP_CHARS :])[-last:]
    return f"{begin_of(text, first, hiding)}\n... {len(text) - most} characters are left out ...\n{end}"


class _Details:
    """Free-form details made into bounded JSON: at most DETAILS_CHARS in all, whatever their shape."""

    def __init__(self, hiding: Hiding) -> None:
        self._hiding = hiding
        self._left = DETAILS_CHARS

    def mapping(self, values: Mapping[Any, Any], depth: int = DEPTH) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in values.items():
            if self._left <= 0:
                kept["..."] = f"{len(values) - len(kept)} more"
                break
            name = str(key)
            hide = value is not None and self._hiding.is_secret(name)
            kept[self._text(name)] = self._hiding.hidden if hide else self._plain(value, depth - 1)
        return kept

    def _plain(self, value: object, depth: int) -> Any:
        self._left -= PER_VALUE_CHARS
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int) and abs(value) <= MAX_WIRE_INT:
            return value
        if isinstance(value, Mapping):
            return self.mapping(value, depth) if depth else f"<{len(value)} fields>"
        if isinstance(value, list | tuple):
            return self._items(value, depth) if depth else f"<{len(value)} items>"
        return f"<{len(value)} bytes>" if isinstance(value, bytes | memoryview) else self._text(str(value))

    def _items(self, values: Sequence[Any], depth: int) -> list[Any]:
        kept: list[Any] = []
        for value in values:
            if self._left <= 0:
                kept.append(f"... {len(values) - len(kept)} more")
                break
            kept.append(self._plain(value, depth - 1))
        return kept

    def _text(self, text: str) -> str:
        shown = begin_of(text, min(DETAIL_CHARS, max(16, self._left)), self._hiding)
        self._left -= len(shown)
        return shown


def in_order(samples: Iterable[Sample]) -> list[ErrorSample]:
    """Samples as they are told, oldest first."""
    return [sample.shown() for sample in sorted(samples, key=lambda sample: sample.number)]
