"""Models on loan from the fabric: asked of ResourceManager, else of the hosts one by one; kept in use, and given back.

A loan is a share of the engine's lease that ends by itself unless it is renewed, so a front that dies keeps no model busy. It is
renewed and given back at the supervisor of the model's host, which works also while ResourceManager does not. Which model
runs where is not decided here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import msgspec

from common.api import leases, models, resource_manager
from common.api.models import Model, ModelProgress, ModelReady, UseModel
from common.client.aio import AsyncClient
from common.client.directory import Directory
from common.clock import Clock
from common.errors import DeadlineExceeded, Interrupted, NotFound, StaleFence, TandemError, Unavailable
from main_pc.front.listing import spellings

TTL_S: Final = 30.0
RENEW_S: Final = 10.0
ASK_S: Final = 5.0
LIST_S: Final = 3.0
SUPERVISOR: Final = "Supervisor/"
ELSEWHERE: Final = (Unavailable, NotFound, Interrupted)
"""Errors after which the next one is asked. A loan that was made and not told ends by its TTL."""

Told = Callable[[ModelProgress], None]


class Lending:
    """Asks on the running loop; `host` is whose own supervisor is asked first where ResourceManager is away."""

    def __init__(self, client: AsyncClient, directory: Directory, host: str, clock: Clock) -> None:
        self._client = client
        self._now = clock.monotonic
        names = [name for name in directory.names() if name.startswith(SUPERVISOR)]
        self._supervisors = sorted(names, key=lambda name: name != f"{SUPERVISOR}{host}")
        self._log = logging.getLogger("tandem.front")

    @asynccontextmanager
    async def use(self, asked: UseModel, told: Told) -> AsyncIterator[ModelReady]:
        """The model, in use until the block is left; `told` hears how the wait goes. Raises the error that ended it."""
        ready = await self._borrow(msgspec.structs.replace(asked, ttl_s=TTL_S), told)
        renewing = asyncio.create_task(self._renew(ready))
        try:
            yield ready
        finally:
            renewing.cancel()
            await asyncio.shield(self._give_back(ready))

    async def models(self) -> tuple[list[Model], dict[str, str]]:
        """All managed models that can be asked for, and per host that cannot be asked the reason."""
        found, missing = await self._heard_of()
        return [model for model in found if model.enabled], missing

    async def _heard_of(self) -> tuple[list[Model], dict[str, str]]:
        asked = models.ListModels()
        try:
            found = await self._client.call(resource_manager.SERVICE, models.LIST_MODELS, asked, timeout_s=LIST_S)
        except TandemError:
            return await self._models_of_each()
        return found.models, found.missing

    async def _models_of_each(self) -> tuple[list[Model], dict[str, str]]:
        async def of(name: str) -> models.Models | TandemError:
            try:
                return await self._client.call(name, models.LIST_MODELS, models.ListModels(), timeout_s=LIST_S)
            except TandemError as error:
                return error

        found: list[Model] = []
        missing: dict[str, str] = {}
        answers = await asyncio.gather(*(of(name) for name in self._supervisors))
        for name, answer in zip(self._supervisors, answers, strict=True):
            if isinstance(answer, TandemError):
                missing[name.removeprefix(SUPERVISOR)] = answer.message
            else:
                found += answer.models
        return found, missing

    async def _borrow(self, asked: UseModel, told: Told) -> ModelReady:
        until = self._now() + asked.wait_s
        errors: list[TandemError] = []
        for target in (resource_manager.SERVICE, *self._supervisors):
            for name in spellings(asked.model):
                left_s = max(0.0, until - self._now())
                try:
                    return await self._ask(target, msgspec.structs.replace(asked, model=name, wait_s=left_s), told)
                except ELSEWHERE as error:
                    errors.append(error)
                    if not isinstance(error, NotFound):
                        break
        raise _most_telling(errors)

    async def _ask(self, target: str, asked: UseModel, told: Told) -> ModelReady:
        timeout_s = asked.wait_s + ASK_S
        async with aclosing(self._client.stream(target, models.USE_MODEL, asked, timeout_s=timeout_s)) as items:
            async for item in items:
                if isinstance(item, ModelReady):
                    return item
                told(item)
        raise DeadlineExceeded(f"{target} ended its answer about {asked.model} without one")

    async def _renew(self, ready: ModelReady) -> None:
        lease = ready.lease
        asked = leases.RenewLease(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._client.call(f"{SUPERVISOR}{ready.host}", leases.RENEW_LEASE, asked, timeout_s=ASK_S)
            except (StaleFence, NotFound) as error:
                self._log.warning("the use of %s on %s has ended: %s", ready.model, ready.host, error.message)
                return
            except TandemError as error:
                self._log.info("the use of %s on %s was not renewed: %s", ready.model, ready.host, error.message)

    async def _give_back(self, ready: ModelReady) -> None:
        lease = ready.lease
        asked = leases.ReleaseLease(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
        with suppress(TandemError):  # it ends by its TTL
            await self._client.call(f"{SUPERVISOR}{ready.host}", leases.RELEASE_LEASE, asked, timeout_s=ASK_S)


def _most_telling(errors: list[TandemError]) -> TandemError:
    """Of the errors of all who were asked: that there is no such model only where nobody was away."""
    away = [error for error in errors if not isinstance(error, NotFound)]
    known = [error for error in errors if isinstance(error, NotFound)]
    if not known:
        return away[0]
    if not away:
        return known[0]
    return Unavailable(f"{known[0].message}; not all hosts could be asked: {away[-1].message}", retry_after_ms=1_000)
