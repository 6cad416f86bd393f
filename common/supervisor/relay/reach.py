"""Whether a service of another host can be reached now, and what its callers are told while it cannot: since when, why, the mend.

It connects to nothing; the shell tells it what the link's socket told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.errors import Interrupted, Unavailable

RETRY_AFTER_MS: Final = 1_000
"""A link that is down is tried again about this often."""

KEYS_TOLD_S: Final = 5.0
"""A handshake that failed is the reason for this long; that the next attempt has not come to one yet says less."""

_KEYS_DISAGREE: Final = ("key in", "refused the handshake")
"""How a channel's news of a handshake that failed reads (common/transport/channel.py)."""


@dataclass(frozen=True, slots=True)
class Since:
    """A moment on two clocks: monotonic seconds to tell how long ago it was, RFC 3339 for people."""

    at: float
    told: str


class Reach:
    """One link to `service` on `host`, as seen from `own_host`."""

    def __init__(self, service: str, host: str, own_host: str, now: Since) -> None:
        self._service = service
        self._host = host
        self._own_host = own_host
        self._since = now
        self._reason = "the connection is being made"
        self._unknown = ""
        self._keys_told_at = now.at - 2 * KEYS_TOLD_S
        self.is_up = False

    @property
    def far(self) -> str:
        """The far service as people call it."""
        return f"{self._service} on {self._host}"

    @property
    def is_refused(self) -> bool:
        """Whether the far side did not take this relay's key, or showed another one than it should."""
        return not self.is_up and not self._unknown and _keys_disagree(self._reason)

    def joined(self) -> None:
        """The far service's key is known, and it is being connected to."""
        self._unknown = ""
        self._reason = "the connection is being made"

    def unknown(self, host_joined: bool, now: Since) -> None:
        """No key of the far service is known here: its host has not joined, or has not told of it yet."""
        self._down(now)
        self._unknown = f"{self._host} has told of no such process yet; start it there" if host_joined else self._mend()

    def _mend(self) -> str:
        return f"{self._host} has not joined: run `tandem invite {self._host}` on this host and `tandem join` there"

    def connected(self) -> None:
        """The link stands."""
        self.is_up = True

    def lost(self, reason: str, now: Since) -> None:
        """The link does not stand (any more); it is down since the first time that this was told."""
        self._down(now)
        told = _keys_disagree(reason)
        if told or now.at - self._keys_told_at > KEYS_TOLD_S:
            self._reason = reason
        if told:
            self._keys_told_at = now.at

    def _down(self, now: Since) -> None:
        if self.is_up:
            self._since = now
        self.is_up = False

    def unavailable(self, now: float) -> Unavailable | None:
        """What a new call gets; None while the link stands."""
        if self.is_up:
            return None
        return Unavailable(self._sentence(now), retry_after_ms=RETRY_AFTER_MS, host=self._host, since=self._since.told)

    def interrupted(self, now: float) -> Interrupted:
        """What a call gets that had left when the link went."""
        why = f"the link to {self.far} went before the answer came, so it may or may not have been done; {self._sentence(now)}"
        return Interrupted(why, host=self._host, since=self._since.told)

    def _sentence(self, now: float) -> str:
        if self._unknown:
            return f"{self.far} cannot be reached: {self._unknown}"
        age_s = max(0.0, now - self._since.at)
        gone = f"{self.far} cannot be reached since {self._since.told} ({age_s:.0f} s): {self._reason}"
        if _keys_disagree(self._reason):
            return (
                f"{gone}; if it stays so, run `tandem invite {self._own_host}` on {self._host} and `tandem join` here"
            )
        return f"{gone}; it is tried again by itself, so look after {self._host}, its supervisor and the cable between"


def _keys_disagree(reason: str) -> bool:
    return any(words in reason for words in _KEYS_DISAGREE)
