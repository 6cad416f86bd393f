"""The real clock and dice, for shells to hand to rules."""

from __future__ import annotations

import random
import time

from common.clock import timestamp


class SystemClock:
    """This host's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def timestamp(self) -> str:
        """Now as RFC 3339 UTC with milliseconds."""
        return timestamp(time.time())


def system_rng() -> random.Random:
    """Chance from the operating system; ids made with it do not repeat across processes."""
    return random.SystemRandom()
