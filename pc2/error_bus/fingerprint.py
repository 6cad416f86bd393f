"""Which errors are one problem: the fingerprint of a report, the same for the same report in every process and for ever.

In this order: what the report says itself; its type and where in the agent's own code it happened; its type and its message's
template. The agent and the host are no part of it, so that one problem of many agents is one group. A change of any rule here,
in `masking` or in `stacks` raises VERSION: groups of an older version stay as they are, and new errors open new ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from common.api.error_bus import ErrorReport, GroupedBy
from pc2.error_bus import stacks
from pc2.error_bus.masking import mask

VERSION: Final = 1
HASH_BYTES: Final = 10
"""80 bits: two of a million groups fall together with odds of 1 in 2.4 * 10**12."""
SHORT_CHARS: Final = 4_096
"""Texts up to this length are remembered with what came of them: most errors come again."""
REMEMBERED: Final = 2_048


class Fingerprint(NamedTuple):
    """The group a report falls into, and why."""

    group_id: str
    grouped_by: GroupedBy


def fingerprint(report: ErrorReport) -> Fingerprint:
    """The fingerprint of a report; total: any text gives one."""
    if report.fingerprint:
        return Fingerprint(_hash("explicit", (report.fingerprint,)), "explicit")
    by_stack = _of_stack(report)
    if by_stack:
        return Fingerprint(by_stack, "stack")
    template = _template(report.message) if len(report.message) <= SHORT_CHARS else mask(report.message)
    return Fingerprint(_hash("message", (report.error_type, template)), "message")


def _of_stack(report: ErrorReport) -> str:
    """The hash by the stack, empty where it holds no frame."""
    if not report.stack:
        return ""
    if isinstance(report.stack, str) and _chars(report) <= SHORT_CHARS:
        return _remembered(report.error_type, report.stack, tuple(report.own_code))
    return _hashed(report.error_type, stacks.own_places(report.stack, report.own_code))


def _chars(report: ErrorReport) -> int:
    return len(report.error_type) + len(report.stack) + sum(map(len, report.own_code))


_template = lru_cache(maxsize=REMEMBERED)(mask)


@lru_cache(maxsize=REMEMBERED)
def _remembered(error_type: str, stack: str, own_code: tuple[str, ...]) -> str:
    return _hashed(error_type, stacks.own_places(stack, own_code))


def _hashed(error_type: str, places: list[stacks.Place]) -> str:
    return _hash("stack", (error_type, *(part for place in places for part in place))) if places else ""


def _hash(kind: str, parts: Iterable[str]) -> str:
    """`1:` and a hash of the parts, their borders included."""
    whole = blake2b(digest_size=HASH_BYTES, person=kind.encode())
    for part in parts:
        raw = part.encode("utf-8", "backslashreplace")
        whole.update(len(raw).to_bytes(8, "big"))
        whole.update(raw)
    return f"{VERSION}:{whole.hexdigest()}"
