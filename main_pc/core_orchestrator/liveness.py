"""Liveness: what silence, a sign of life and a witnessed death make of a registered agent.

    alive       it promised a heartbeat every ttl_s and keeps the promise
    suspect     it has been silent for longer than ttl_s
    expired     it has been silent for longer than 3 x ttl_s, or its host saw it die
    unpromised  it promised nothing, so silence proves nothing

It keeps no time and no agents: how long an agent was silent is an argument.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from common.api.core_orchestrator import Liveness

EXPIRED_AFTER_TTLS: Final = 3.0
"""An agent is suspect after 1 ttl_s of silence and expired after this many."""


class Sign(StrEnum):
    """What is learnt about an agent; `kept` comes from one that promised heartbeats, `seen` from one that did not."""

    KEPT = "kept"
    SEEN = "seen"
    LATE = "late"
    LOST = "lost"
    DIED = "died"


NEXT: Final[dict[tuple[Liveness, Sign], Liveness]] = {
    ("alive", Sign.KEPT): "alive",
    ("alive", Sign.LATE): "suspect",
    ("alive", Sign.LOST): "expired",
    ("alive", Sign.DIED): "expired",
    ("suspect", Sign.KEPT): "alive",
    ("suspect", Sign.LATE): "suspect",
    ("suspect", Sign.LOST): "expired",
    ("suspect", Sign.DIED): "expired",
    ("expired", Sign.KEPT): "alive",
    ("expired", Sign.SEEN): "unpromised",
    ("expired", Sign.LATE): "expired",
    ("expired", Sign.LOST): "expired",
    ("expired", Sign.DIED): "expired",
    ("unpromised", Sign.SEEN): "unpromised",
    ("unpromised", Sign.DIED): "expired",
}
"""The legal moves; a promise changes only by a new registration, so `alive` never meets `seen`."""


def at_registration(ttl_s: float | None) -> Liveness:
    """How an agent begins: alive when it promises heartbeats, unpromised when it does not."""
    return "unpromised" if ttl_s is None else "alive"


def of_life(ttl_s: float | None) -> Sign:
    """The sign that a word from the agent is."""
    return Sign.SEEN if ttl_s is None else Sign.KEPT


def of_silence(ttl_s: float | None, silent_s: float) -> Sign | None:
    """The sign that `silent_s` seconds of silence are; None while a promise is kept, and always where there is none."""
    if ttl_s is None or silent_s <= ttl_s:
        return None
    return Sign.LOST if silent_s > EXPIRED_AFTER_TTLS * ttl_s else Sign.LATE
