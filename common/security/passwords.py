"""Passwords under argon2id (RFC 9106), hashed and checked on a thread of their own so that no loop waits.

A check takes the same time whether there is a hash to check against or none. A password is in no error and no log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

from common.errors import Overloaded

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

MOST_WAITING: Final = 64
RETRY_AFTER_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash costs; the default is RFC 9106's second recommended option."""

    passes: int = 3
    memory_kib: int = 65_536
    lanes: int = 4


class Passwords:
    """Hashes and checks, one at a time; `close` ends its thread."""

    def __init__(self, cost: Cost | None = None, most_waiting: int = MOST_WAITING) -> None:
        self._cost = cost or Cost()
        self._most_waiting = most_waiting
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")
        self._waiting = 0

    async def hashed(self, password: str) -> str:
        """The hash to keep; Overloaded when too many wait."""
        return await self._aside(lambda: self._hasher.hash(password))

    async def matches(self, kept: str, password: str) -> bool:
        """Whether it is the password of that hash; "" is nobody's, and takes as long. Overloaded when too many wait."""
        return await self._aside(lambda: self._verify(kept, password))

    def close(self) -> None:
        """Check no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _aside(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._most_waiting:
            raise Overloaded(f"{self._waiting} passwords wait to be checked", retry_after_ms=RETRY_AFTER_MS)
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(work))
        finally:
            self._waiting -= 1

    @cached_property
    def _hasher(self) -> PasswordHasher:
        from argon2 import PasswordHasher

        cost = self._cost
        return PasswordHasher(time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes)

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash("nobody's")

    def _verify(self, kept: str, password: str) -> bool:
        from argon2.exceptions import VerificationError

        nobodys = self._nobodys
        try:
            self._hasher.verify(kept or nobodys, password)
        except VerificationError:
            return False
        return bool(kept)
