"""Callers who wait for a model: since when, where, and whether it is on its way to them.

It knows neither who they are nor what becomes of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from common.api.models import ModelProgress, UseModel


class Caller(Struct):
    """One; `since` in monotonic seconds, `host` where it wants the model (empty: anywhere), `at` where it waits for it.

    `coming`: room was found, and the model is being loaded. `for_card`, `for_host`: what room may be what it waits for.
    """

    model: str
    since: float
    host: str = ""
    at: str = ""
    coming: bool = False
    for_card: bool = True
    for_host: bool = False

    def told(self, part: ModelProgress) -> None:
        """How its wait goes."""
        self.at, self.coming = part.host, part.phase != "queued"
        self.for_card, self.for_host = part.for_card, part.for_host


class Callers:
    """Everyone who waits now, by a number of their own."""

    def __init__(self) -> None:
        self.waiting: dict[int, Caller] = {}
        self._last = 0

    @contextmanager
    def wait(self, asked: UseModel, now: float) -> Iterator[Caller]:
        """This one waits until the block is left."""
        self._last += 1
        number, caller = self._last, Caller(asked.model, now, asked.host)
        self.waiting[number] = caller
        try:
            yield caller
        finally:
            del self.waiting[number]
