"""The knobs of a client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from common.resilience.breaker import BreakerSettings
from common.resilience.budget import RetrySettings

TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """`timeout_s` is the budget of a call that states none: every attempt and pause of it together.

    `token` is shown with every call, whatever the process's own credentials are; empty: those say.
    """

    timeout_s: float = TIMEOUT_S
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    token: str = field(default="", repr=False)


def at_own_pace(timeout_s: float = TIMEOUT_S, attempts: int = 1) -> ClientSettings:
    """For a caller that says itself when to ask again: no breaker opens in its way, and every error is the endpoint's own."""
    never = BreakerSettings(min_calls=100_000, window_calls=100_000)
    return ClientSettings(timeout_s=timeout_s, breaker=never, retry=RetrySettings(attempts=attempts))
