"""The models on loan for tasks, on the loop: asked for, renewed while they are kept, and given back as `loans` decides.

A loan is a share of the engine's lease that ends by itself unless it is renewed, so a ResourceManager that died keeps no model
busy; its next life asks anew. It is renewed and given back at the supervisor of the model's host. It decides nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from common.api import leases
from common.api.models import ModelProgress, ModelReady, UseModel
from common.api.words import AnyVerb
from common.client.aio import AsyncClient
from common.errors import Internal, NotFound, StaleFence, TandemError
from common.service.shell import Shell
from pc2.resource_manager.callers import Callers
from pc2.resource_manager.tasks.loans import Ask, Desist, GiveBack, Loans
from pc2.resource_manager.tasks.wants import Need

SUPERVISOR: Final = "Supervisor/"
TTL_S: Final = 30.0
RENEW_S: Final = 10.0
WAIT_S: Final = 600.0
"""How long one request for a model waits; a load may take minutes. The next one follows."""
ASK_S: Final = 5.0


class Lender(Protocol):
    """Who has models: ResourceManager's own way to those of all hosts; `callers` wait there for models beside the tasks."""

    callers: Callers

    async def use(self, asked: UseModel, told: Callable[[ModelProgress], None]) -> ModelReady:
        """The model, within the request's `wait_s`; `told` hears how the wait goes."""
        ...


class Lending:
    """The shell around `loans`; `renew_s` is the time between two renewals."""

    _changed: Callable[[str], None]

    def __init__(
        self, shell: Shell, client: AsyncClient, lender: Lender, loans: Loans, renew_s: float = RENEW_S
    ) -> None:
        self._shell = shell
        self._client = client
        self._lender = lender
        self._loans = loans
        self._renew_s = renew_s
        self._working: dict[str, asyncio.Task[None]] = {}
        self._returning: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._loans)

    def begin(self, changed: Callable[[str], None]) -> None:
        """`changed` hears of each model that came or went, or is waited for for another reason."""
        self._changed = changed

    def look(self, needs: Mapping[str, Need]) -> None:
        """Do what the needs and the time call for."""
        for step in self._loans.look(needs, self._now(), self._lender.callers.waiting):
            self._perform(step)

    async def finish(self, within_s: float) -> None:
        """Give everything back; what is not back after `within_s` ends by its TTL."""
        for step in self._loans.end():
            self._perform(step)
        if self._returning:
            await asyncio.wait(list(self._returning), timeout=within_s)

    def _perform(self, step: Ask | Desist | GiveBack) -> None:
        self._stop(step.model)
        match step:
            case Ask():
                self._work(step.model, self._ask(step), f"asking for {step.model}")
            case GiveBack():
                self._give_back(step.lent)

    def _work(self, model: str, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._working[model] = self._shell.spawn(work, name)
        task.add_done_callback(lambda _: self._ended(model, task))

    def _ended(self, model: str, task: asyncio.Task[None]) -> None:
        if self._working.get(model) is task:
            del self._working[model]

    def _stop(self, model: str) -> None:
        working = self._working.pop(model, None)
        if working is not None:
            working.cancel()

    async def _ask(self, ask: Ask) -> None:
        def told(part: ModelProgress) -> None:
            if self._loans.told(ask.model, ask.number, part):
                self._changed(ask.model)

        asked = UseModel(model=ask.model, host=ask.host, priority=ask.priority, wait_s=WAIT_S, ttl_s=TTL_S)
        try:
            ready = await self._lender.use(asked, told)
        except TandemError as error:
            self._refused(ask, error)
        except Exception as bug:
            self._shell.log.exception("asking for %s failed inside the service", ask.model)
            self._refused(ask, Internal(f"asking for it failed inside the service: {type(bug).__name__}"))
        else:
            self._granted(ask, ready)

    def _refused(self, ask: Ask, error: TandemError) -> None:
        self._loans.refused(ask.model, ask.number, error, self._now())
        self._changed(ask.model)

    def _granted(self, ask: Ask, ready: ModelReady) -> None:
        if self._loans.granted(ask.model, ask.number, ready, self._now()):
            self._work(ask.model, self._renew(ask, ready), f"renewing {ask.model}")
            self._changed(ask.model)
        else:
            self._give_back(ready)

    async def _renew(self, ask: Ask, ready: ModelReady) -> None:
        lease = ready.lease
        asked = leases.RenewLease(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
        while True:
            await asyncio.sleep(self._renew_s)
            at = self._now()
            try:
                renewed = await self._at(ready.host, leases.RENEW_LEASE, asked)
            except (StaleFence, NotFound) as error:
                self._loans.lost(ask.model, ask.number, error.message, self._now())
                self._changed(ask.model)
                return
            except TandemError as error:
                self._shell.log.info("the use of %s on %s was not renewed: %s", ask.model, ready.host, error.message)
            else:
                self._loans.renewed(ask.model, ask.number, at + renewed.expires_in_s)

    def _give_back(self, ready: ModelReady) -> None:
        task = self._shell.spawn(self._release(ready), f"giving back {ready.model}")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _release(self, ready: ModelReady) -> None:
        lease = ready.lease
        asked = leases.ReleaseLease(lease_id=lease.lease_id, fencing_token=lease.fencing_token)
        with suppress(TandemError):  # it ends by its TTL
            await self._at(ready.host, leases.RELEASE_LEASE, asked)

    async def _at(self, host: str, verb: AnyVerb, asked: Any) -> Any:
        return await self._client.call(f"{SUPERVISOR}{host}", verb, asked, timeout_s=ASK_S)

    def _now(self) -> float:
        return self._shell.clock.monotonic()
