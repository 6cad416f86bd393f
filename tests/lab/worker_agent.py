"""An agent for tests of two hosts: it does tasks of a capability that its host alone offers, and hands in points of metrics.

python -m tests.lab.worker_agent NAME HOST
"""

from __future__ import annotations

import os
import sys

from tandem import Agent, verb

NAME, HOST = sys.argv[1:]


class Worker(Agent):
    """Capability `work-HOST`."""

    @verb(capability=f"work-{HOST}", idempotent=True)
    async def work(self, data: str) -> dict[str, object]:
        """The data, and who gave it back."""
        return {"data": data, "host": self.host, "pid": os.getpid()}

    @verb
    async def measure(self, metric_name: str, values: list[float]) -> dict[str, object]:
        """Hands in a point for each value, as of now."""
        for value in values:
            self.metric(metric_name, value)
        return {"handed_in": len(values)}


if __name__ == "__main__":
    Worker(NAME).run()
