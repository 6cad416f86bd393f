"""Which of its own troubles a service's health tells: a count that rose, until it has stood still for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TOLD_S: Final = 300.0


@dataclass(slots=True)
class _Worry:
    counted: int
    since: int = 0
    rose_at: float = 0.0


class Worries:
    """Counts that should not rise, by name. They begin at nought; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._worries: dict[str, _Worry] = {}

    def look(self, counts: Mapping[str, tuple[int, str]], now: float) -> dict[str, str]:
        """The problems to tell now; in each sentence `{more}` is how much was counted since it began to be told."""
        told: dict[str, str] = {}
        for name, (count, sentence) in counts.items():
            worry = self._worries.setdefault(name, _Worry(0))
            if count > worry.counted:
                worry.counted, worry.rose_at = count, now
            elif now - worry.rose_at >= TOLD_S:
                worry.since = count
            if count > worry.since:
                told[name] = sentence.format(more=count - worry.since)
        return told
