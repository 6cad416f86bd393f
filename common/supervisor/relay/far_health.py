"""A far service's health port on this host's loopback: what the service says of itself, asked over the relay once a second.

Its metrics are not told here: a scraper reads them on the service's own host, and the relay's word for them is where.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NoReturn

from common.api import basic
from common.api.words import Empty
from common.client.aio import AsyncClient
from common.client.pursuit import Found
from common.errors import TandemError
from common.service.settings import VERSION
from common.supervisor.relay.requests import LOOPBACK
from common.transport.health_port import HealthPort
from common.transport.sockets import Endpoint

ASK_S: Final = 1.0
ANSWER_S: Final = 1.0


class FarHealth:
    """Answers at `port` for the service behind `relayed`, this host's relay port to it; Conflict when the port is taken."""

    def __init__(self, service: str, host: str, port: int, relayed: int, client: AsyncClient) -> None:
        self._service = service
        self._host = host
        self._found = Found(Endpoint.tcp(LOOPBACK, relayed))
        self._client = client
        self._log = logging.getLogger("tandem.service")
        self._last = self._unheard("it was not asked yet")
        self._port = HealthPort(LOOPBACK, port, lambda: self._last, self._metrics)
        self._port.start()
        self.number = self._port.port

    async def ask(self) -> NoReturn:
        """Ask it for ever."""
        while True:
            try:
                self._last = await self._client.call_at(self._found, basic.PING, Empty(), timeout_s=ANSWER_S)
            except TandemError as error:
                self._last = self._unheard(error.message)
            except Exception as bug:
                self._log.exception("asking %s of %s failed", self._service, self._host)
                self._last = self._unheard(f"asking it failed here: {type(bug).__name__}")
            await asyncio.sleep(ASK_S)

    def heartbeat(self) -> None:
        """This host's loop turns; called at least four times a second."""
        self._port.heartbeat()

    def _unheard(self, why: str) -> basic.Health:
        return basic.Health(
            status="unhealthy",
            ready=False,
            service=self._service,
            version=VERSION,
            uptime=0.0,
            boot="",
            host=self._host,
            phase="stopped",
            reasons=[why],
        )

    def _metrics(self) -> bytes:
        return f"# {self._service} runs on {self._host}: scrape its metrics at its health port there\n".encode()

    def close(self) -> None:
        """Answer nobody any more."""
        self._port.close()
