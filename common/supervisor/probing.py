"""Asking a launched process once whether it is ready: over ZeroMQ, HTTP or TCP. Decides what an answer means, never what follows.

ZeroMQ asks the health port for `health_check` in plain dress, as any agent in any language answers it. An answer with a
`ready` goes by that, another one by its `status`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import zmq

from common.api.basic import HEALTH_CHECK
from common.client.plain_link import PlainLink
from common.client.verbs import verb_named
from common.clock import Clock
from common.config.schema import HealthProbe
from common.errors import TandemError
from common.supervisor.instructions import Launched
from common.transport.sockets import Endpoint

LOOPBACK: Final = "127.0.0.1"
_ASKED: Final = verb_named(HEALTH_CHECK.name, "")
"""By its name alone: an agent that knows nothing of Tandem may answer in a shape of its own."""
AT_ONCE: Final = 64
"""Probes under way at once; more wait their turn."""
WELL: Final = ("ok", "success", "healthy", "degraded")
"""The `status` of one that takes work, where it says nothing of `ready`."""


class Prober:
    """Asks processes of this host, many at once; an empty answer means ready, any other is the reason why not."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], clock: Clock) -> None:
        self._context = context
        self._clock = clock
        self._room = asyncio.Semaphore(AT_ONCE)

    async def ask(self, probe: HealthProbe, process: Launched) -> str:
        """Why the process is not ready, empty when it is; takes at most `probe.timeout_s`, its turn aside."""
        async with self._room:
            try:
                async with asyncio.timeout(probe.timeout_s):
                    return await self._ask(probe, process)
            except TimeoutError:
                return f"no answer within {probe.timeout_s:g} s"
            except TandemError as error:
                return error.message
            except OSError as error:
                return f"no connection: {error.strerror or error}"

    async def _ask(self, probe: HealthProbe, process: Launched) -> str:
        match probe.how:
            case "zmq":
                return await self._over_zmq(probe, process.health_check_port)
            case "http":
                return await _over_http(process.health_check_port)
        _, writer = await asyncio.open_connection(LOOPBACK, process.health_check_port or process.port)
        writer.close()
        return ""

    async def _over_zmq(self, probe: HealthProbe, port: int) -> str:
        link = PlainLink(self._context, Endpoint.tcp(LOOPBACK, port), self._clock)
        try:
            return judge(await link.call(_ASKED, {}, self._clock.monotonic() + probe.timeout_s))
        finally:
            link.close()


async def _over_http(port: int) -> str:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        words = (await reader.readline()).decode(errors="replace").split(maxsplit=2)
    finally:
        writer.close()
    if len(words) < 2 or not words[0].startswith("HTTP/"):
        return "the answer is not HTTP"
    return "" if words[1] == "200" else f"HTTP {' '.join(words[1:]).strip()}"


def judge(answer: Mapping[str, Any]) -> str:
    """Why a health answer does not mean ready; empty when it does."""
    ready, status = answer.get("ready"), answer.get("status")
    if ready is True or (ready is None and str(status).lower() in WELL):
        return ""
    reasons = answer.get("reasons")
    told = "; ".join(str(reason) for reason in reasons) if isinstance(reasons, list) else ""
    return told[:200] or f"it says {status or 'nothing'}, not ready"
