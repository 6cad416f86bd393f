"""The knobs of a client."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.resilience.breaker import BreakerSettings
from common.resilience.budget import RetrySettings


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """`timeout_s` is the budget of a call that states none: every attempt and pause of it together."""

    timeout_s: float = 30.0
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
