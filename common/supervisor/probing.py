"""Asking a launched process once whether it is ready: over ZeroMQ, HTTP or TCP. Decides neither what an answer means nor what
follows from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import zmq

from common.client.plain_link import PlainLink
from common.client.probing import judge, knock, over_http, over_zmq
from common.clock import Clock
from common.config.schema import HealthProbe
from common.errors import TandemError
from common.supervisor.instructions import Launched
from common.transport.sockets import Endpoint

LOOPBACK: Final = "127.0.0.1"
AT_ONCE: Final = 64
"""Probes under way at once; more wait their turn."""


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
                return await self._over_zmq(probe, process)
            case "http":
                reason, body = await over_http(LOOPBACK, process.health_check_port)
                return stranger(body, process) or reason
        await knock(LOOPBACK, process.health_check_port or process.port)
        return ""

    async def _over_zmq(self, probe: HealthProbe, process: Launched) -> str:
        link = PlainLink(self._context, Endpoint.tcp(LOOPBACK, process.health_check_port), self._clock)
        try:
            answer = await over_zmq(link, self._clock.monotonic() + probe.timeout_s)
        finally:
            link.close()
        return stranger(answer, process) or judge(answer)


def stranger(answer: Mapping[str, Any], process: Launched) -> str:
    """That another process answers at this one's health port, by the mark of its launch; empty where none says so.

    A port of the system's choosing may be taken by someone else before its process binds it.
    """
    mark = answer.get("supervised")
    if not mark or not isinstance(mark, str) or not process.mark or mark == process.mark:
        return ""
    return f"another process answers at its health port {process.health_check_port}: {mark[:100]}"
