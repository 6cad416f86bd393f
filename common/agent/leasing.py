"""Holding a VRAM lease: acquired from ResourceManager, or from this host's supervisor while that is away; renewed until released.

`lost` is set when the lease has ended under its holder: stop using the card then.
"""

from __future__ import annotations

import asyncio
import logging
import os
from types import TracebackType
from typing import Final

from common.api import leases, resource_manager
from common.client.aio import AsyncClient
from common.errors import NotFound, StaleFence, TandemError, Unavailable

RENEWALS_PER_TTL: Final = 3
_log = logging.getLogger("tandem.agent")


class HeldLease:
    """An acquired lease, as an async context manager; leaving it gives the bytes back."""

    def __init__(self, client: AsyncClient, host: str, request: leases.AcquireLease) -> None:
        self._client = client
        self._host = host
        self._request = request
        self._arbiter = resource_manager.SERVICE
        self._renewing: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        self.granted: leases.LeaseGranted

    async def __aenter__(self) -> HeldLease:
        self.granted = await self._acquire()
        self._renewing = asyncio.get_running_loop().create_task(self._renew())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
        held = leases.ReleaseLease(lease_id=self.granted.lease_id, fencing_token=self.granted.fencing_token)
        try:
            await self._client.call(self._keeper, leases.RELEASE_LEASE, held, timeout_s=5.0)
        except (NotFound, StaleFence):
            return
        except TandemError as failure:
            _log.warning(
                "lease %s was not released (%s); its card takes it back when this process ends", held.lease_id, failure
            )

    @property
    def _keeper(self) -> str:
        return f"Supervisor/{self.granted.host}"

    async def _acquire(self) -> leases.LeaseGranted:
        timeout_s = self._request.wait_s + 10.0
        try:
            return await self._client.call(self._arbiter, leases.ACQUIRE_LEASE, self._request, timeout_s=timeout_s)
        except Unavailable:
            self._arbiter = f"Supervisor/{self._host}"
            return await self._client.call(self._arbiter, leases.ACQUIRE_LEASE, self._request, timeout_s=timeout_s)

    async def _renew(self) -> None:
        every_s = max(0.1, self.granted.expires_in_s / RENEWALS_PER_TTL)
        renewal = leases.RenewLease(lease_id=self.granted.lease_id, fencing_token=self.granted.fencing_token)
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._client.call(self._keeper, leases.RENEW_LEASE, renewal, timeout_s=every_s)
            except (NotFound, StaleFence) as ended:
                _log.warning("lease %s ended under its holder: %s", renewal.lease_id, ended)
                self.lost.set()
                return
            except TandemError as failure:
                _log.info("lease %s was not renewed this time: %s", renewal.lease_id, failure)


def this_process(agent_name: str, host: str) -> leases.Owner:
    """This process as a lease's owner; its host looks the start time up."""
    return leases.Owner(agent_name=agent_name, host=host, pid=os.getpid())
