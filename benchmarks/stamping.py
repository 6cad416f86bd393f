"""An agent that says when its verb began: `python -m benchmarks.stamping`, under a supervisor."""

from __future__ import annotations

import time

from tandem import Agent, verb


class Stamping(Agent):
    """Capability `stamp`."""

    @verb(capability="stamp", idempotent=True)
    def stamp(self) -> dict[str, float]:
        """The monotonic clock of this machine as the verb begins, which is the same in all its processes."""
        return {"began": time.monotonic()}


if __name__ == "__main__":
    Stamping("stamping").run()
