"""Latency quantiles of the recent past, cheap enough for every call.

A histogram with logarithmic buckets (DDSketch: Masson, Rim and Lee, PVLDB 12, 2019): bucket i holds the durations in
(LOWEST_S * g**(i-1), LOWEST_S * g**i] with g = (1 + a) / (1 - a), so that every quantile is within a = RELATIVE_ERROR of a
true one, between LOWEST_S and HIGHEST_S; what lies outside counts at the border. Two windows turn: quantiles are of the one
being filled and the one before it. It reads no clock; whoever owns it says when a window is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log
from typing import Final

RELATIVE_ERROR: Final = 0.02
LOWEST_S: Final = 1e-6
HIGHEST_S: Final = 3600.0

_GROWTH: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG: Final = 1 / log(_GROWTH)
_SHIFT: Final = 1 - log(LOWEST_S) * _PER_LOG
_BUCKETS: Final = ceil(log(HIGHEST_S / LOWEST_S) * _PER_LOG) + 1
_MIDDLES: Final = tuple(LOWEST_S * 2 * _GROWTH**i / (_GROWTH + 1) for i in range(_BUCKETS))


class Quantiles:
    """The durations of two windows; an unused one holds no buckets."""

    __slots__ = ("_before", "_filling")

    def __init__(self) -> None:
        self._filling: list[int] = []
        self._before: list[int] = []

    def observe(self, elapsed_s: float) -> None:
        """Counts one duration. Never raises: below LOWEST_S, negative or not a number counts as LOWEST_S."""
        index = 0
        if elapsed_s > LOWEST_S:
            index = int(log(elapsed_s) * _PER_LOG + _SHIFT) if elapsed_s < HIGHEST_S else -1
        try:
            self._filling[index] += 1
        except IndexError:
            self._filling = [0] * _BUCKETS
            self._filling[index] += 1

    def rotate(self) -> None:
        """Ends the window being filled; what the one before it held is forgotten."""
        self._before, self._filling = self._filling, []

    def merge(self, other: Quantiles) -> None:
        """Adds what `other` holds, window by window."""
        self._filling = _sum(self._filling, other._filling)
        self._before = _sum(self._before, other._before)

    def at(self, *shares: float) -> list[float]:
        """The quantiles in seconds at the given shares, each in [0, 1] and in rising order; 0.0 when nothing was observed."""
        return _read(_sum(self._filling, self._before), shares)

    def count(self) -> int:
        """How many durations both windows hold."""
        return sum(self._filling) + sum(self._before)


def _sum(one: list[int], other: list[int]) -> list[int]:
    if not one or not other:
        return list(one or other)
    return [a + b for a, b in zip(one, other, strict=True)]


def _read(buckets: list[int], shares: Sequence[float]) -> list[float]:
    """The value of rank `share * (n - 1)`, rounded down, counting from 0."""
    last = sum(buckets) - 1
    if last < 0:
        return [0.0] * len(shares)
    found: list[float] = []
    index, passed = 0, buckets[0]
    for share in shares:
        while passed <= share * last:
            index += 1
            passed += buckets[index]
        found.append(_MIDDLES[index])
    return found
