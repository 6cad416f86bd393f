"""Back-off after wrong secrets: who must wait before it may try again, and how long.

Failures are counted for an identity and a host together, and for a host alone. After some free tries each further failure doubles
the wait, up to a cap; a wait that is over allows one try at a time. Nothing is counted against an identity by itself, so that
whoever guesses on one host keeps nobody out who asks from another; and who has shown the identity's secret from a host
before does not wait for what that host got wrong with other names. Names that do not exist are counted like any other.

Memory is bounded: what has been quiet for longest is forgotten first. `now` is monotonic seconds; nothing is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil
from typing import Annotated

from msgspec import Meta, Struct

from common.errors import Overloaded, Unauthenticated

_Positive = Annotated[float, Meta(gt=0)]


class Pace(Struct, frozen=True, kw_only=True):
    """How failures turn into waits: from the `free`th on first_s * 2**n seconds, at most cap_s; forgotten after quiet_s."""

    free: Annotated[int, Meta(ge=1)]
    first_s: _Positive
    cap_s: _Positive
    quiet_s: _Positive

    def wait_s(self, failures: int) -> float:
        """The wait after so many failures."""
        return 0.0 if failures < self.free else min(self.cap_s, self.first_s * 2.0 ** min(failures - self.free, 60))


class Limits(Struct, frozen=True, kw_only=True):
    """The two paces, and how many keys of each are remembered."""

    identity: Pace = Pace(free=5, first_s=1.0, cap_s=900.0, quiet_s=1_800.0)
    host: Pace = Pace(free=20, first_s=1.0, cap_s=60.0, quiet_s=600.0)
    remembered: Annotated[int, Meta(ge=1)] = 10_000
    proven: Annotated[int, Meta(ge=1)] = 10_000


class _Tries:
    """What one key got wrong."""

    __slots__ = ("failed_at", "failures", "pending", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.pending = 0
        self.until = 0.0
        self.failed_at = 0.0


class _Counter:
    """The failures of many keys at one pace."""

    def __init__(self, pace: Pace, remembered: int) -> None:
        self._pace = pace
        self._remembered = remembered
        self._tries: OrderedDict[tuple[str, ...], _Tries] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tries)

    def wait_s(self, key: tuple[str, ...], now: float) -> float:
        """The seconds until `key` may try; 0: now."""
        tries = self._tries.get(key)
        return 0.0 if tries is None else max(0.0, tries.until - now)

    def is_full(self, key: tuple[str, ...]) -> bool:
        """Whether as many tries of `key` are under way as may be at once: what is left of the free ones, or one."""
        tries = self._tries.get(key)
        return tries is not None and tries.pending >= max(1, self._pace.free - tries.failures)

    def begin(self, key: tuple[str, ...], now: float) -> None:
        """A try is under way."""
        tries = self._tries.setdefault(key, _Tries())
        if tries.failures and now - max(tries.failed_at, tries.until) >= self._pace.quiet_s:
            tries.failures = 0
        tries.pending += 1

    def ended(self, key: tuple[str, ...]) -> None:
        """The try is over, well or never made."""
        tries = self._tries[key]
        tries.pending -= 1
        if not tries.pending and not tries.failures:
            del self._tries[key]

    def failed(self, key: tuple[str, ...], now: float) -> None:
        """The try is over, and was wrong."""
        tries = self._tries[key]
        tries.pending -= 1
        tries.failures += 1
        tries.failed_at = now
        tries.until = now + self._pace.wait_s(tries.failures)
        self._tries.move_to_end(key)
        self._forget()

    def cleared(self, key: tuple[str, ...]) -> None:
        """The try was right: nothing before it counts."""
        self._tries[key].failures = 0
        self._tries[key].until = 0.0
        self.ended(key)

    def _forget(self) -> None:
        """Let the quietest go; tries under way are few and stay."""
        while len(self._tries) > self._remembered:
            quietest = next((key for key, tries in self._tries.items() if not tries.pending), None)
            if quietest is None:
                return
            del self._tries[quietest]


class Lockout:
    """Asked before each try of a secret, and told what came of it."""

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._pairs = _Counter(limits.identity, limits.remembered)
        self._hosts = _Counter(limits.host, limits.remembered)
        self._most_proven = limits.proven
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pairs) + len(self._hosts)

    def wait_s(self, name: str, host: str, now: float) -> float:
        """The seconds that a try of `name` from `host` must wait; 0: none."""
        pair = (name, host)
        wait_s = self._pairs.wait_s(pair, now)
        return wait_s if pair in self._proven else max(wait_s, self._hosts.wait_s((host,), now))

    def begin(self, name: str, host: str, now: float) -> None:
        """Leave to try; exactly one of `failed`, `succeeded` and `dropped` must follow.

        Unauthenticated with the wait when there were too many failures, Overloaded when too many tries are under way.
        """
        wait_s = self.wait_s(name, host, now)
        if wait_s > 0:
            raise Unauthenticated(
                f"too many wrong secrets from {host}: try again in {ceil(wait_s)} s", retry_after_ms=ceil(wait_s * 1000)
            )
        pair = (name, host)
        if self._pairs.is_full(pair) or (pair not in self._proven and self._hosts.is_full((host,))):
            raise Overloaded(f"other tries from {host} are still being checked", retry_after_ms=200)
        self._pairs.begin(pair, now)
        self._hosts.begin((host,), now)

    def failed(self, name: str, host: str, now: float) -> None:
        """The secret was wrong, or the caller left before that was known."""
        self._pairs.failed((name, host), now)
        self._hosts.failed((host,), now)

    def succeeded(self, name: str, host: str) -> None:
        """The secret was right. What the host got wrong with other names still counts."""
        self._pairs.cleared((name, host))
        self._hosts.ended((host,))
        self._proven[name, host] = None
        self._proven.move_to_end((name, host))
        if len(self._proven) > self._most_proven:
            self._proven.popitem(last=False)

    def dropped(self, name: str, host: str) -> None:
        """The secret was not looked at."""
        self._pairs.ended((name, host))
        self._hosts.ended((host,))

    def forget(self, name: str) -> None:
        """The identity is gone: whoever has its name next has proven nothing."""
        for pair in [pair for pair in self._proven if pair[0] == name]:
            del self._proven[pair]
