"""An agent for tests: it gives back what it got, at once or after a while."""

from __future__ import annotations

import asyncio
import os

from tandem import Agent, verb


class Echo(Agent):
    """Capabilities `echo` (may be repeated) and `once` (may not)."""

    @verb(capability="echo", idempotent=True)
    async def echo(self, data: str, pause_s: float = 0.0) -> dict[str, object]:
        """The data, and who gave it back."""
        await asyncio.sleep(pause_s)
        return {"data": data, "pid": os.getpid()}

    @verb(capability="once")
    async def once(self, data: str) -> dict[str, object]:
        """The same, not to be repeated."""
        return {"data": data, "pid": os.getpid()}


if __name__ == "__main__":
    Echo("echo").run()
