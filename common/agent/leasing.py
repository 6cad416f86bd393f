"""Holding VRAM leases: acquired from ResourceManager, or from this host's supervisor while that is away; renewed until released.

A lease is in use from the start, unless it is said otherwise, and only one that is not in use can be evicted. Whoever serves
calls takes `busy` around each use: that marks the lease in use, and gets it back first where it was evicted or put to sleep
between two uses. Whether a lease stands is its card's supervisor's to say; an agent that was asked for its memory asks at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, TypedDict, TypeVar

import msgspec

from common.api import leases, resource_manager
from common.api.leases import LeaseGranted
from common.client.aio import AsyncClient
from common.errors import NotFound, StaleFence, TandemError, Unavailable
from common.ids import new_id
from common.service.shell import Shell

RENEWALS_PER_TTL: Final = 3
ANSWER_S: Final = 5.0
AWAY_S: Final = 10.0
"""A ResourceManager that was away is not asked again so soon."""

T = TypeVar("T")
_log = logging.getLogger("tandem.agent")


class LeaseLost(StaleFence):
    """The lease ended under its holder: evicted, put to sleep, run out, or its card gone. Nothing may be on the card for it."""


class LeaseTerms(TypedDict, total=False):
    """What else a lease may be asked to be, in the words of `acquire_lease`."""

    config: str
    cards: int
    exclusive: bool
    share: bool
    pinned: bool
    in_use: bool
    ram_bytes: int
    disk_bytes: int
    cpu_cores: float
    load_s: float
    files: list[str]


class AgentLeases:
    """All leases of one agent."""

    def __init__(self, shell: Shell, client: AsyncClient, host: str) -> None:
        self.client = client
        self.host = host
        self._shell = shell
        self._now = shell.clock.monotonic
        self._live: set[HeldLease] = set()
        self._waiting: set[Future[Any]] = set()
        self._away_until = float("-inf")

    def lease(self, request: leases.AcquireLease) -> HeldLease:
        """A lease to be held; nothing is asked for yet."""
        return HeldLease(self, request)

    async def acquire(self, request: leases.AcquireLease) -> LeaseGranted:
        """The lease, from ResourceManager or while that is away from this host's supervisor; each is one of its own."""
        asked = msgspec.structs.replace(request, idempotency_key=new_id("key", self._shell.rng))
        timeout_s = asked.wait_s + 2 * ANSWER_S
        if self._now() >= self._away_until:
            try:
                return await self.client.call(
                    resource_manager.SERVICE, leases.ACQUIRE_LEASE, asked, timeout_s=timeout_s
                )
            except Unavailable:
                self._away_until = self._now() + AWAY_S
        return await self.client.call(f"Supervisor/{self.host}", leases.ACQUIRE_LEASE, asked, timeout_s=timeout_s)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work of a lease, aside."""
        return self._shell.spawn(work, "a lease")

    def note(self, lease: HeldLease, *, live: bool) -> None:
        """This lease is acquired, or let go of."""
        if live:
            self._live.add(lease)
        else:
            self._live.discard(lease)

    def gave_back(self, lease_id: str) -> None:
        """The agent did as it was asked about that lease: whether it stands is asked now."""
        for lease in self._live:
            if lease.granted.lease_id == lease_id:
                self.spawn(lease.renew())

    def off_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for work on the agent's loop from any other thread; RuntimeError on the loop itself."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            waiting = asyncio.run_coroutine_threadsafe(work, self._shell.loop)
        else:
            work.close()
            raise RuntimeError("on the loop a lease is taken by `async with`")
        self._waiting.add(waiting)
        try:
            return waiting.result()
        finally:
            self._waiting.discard(waiting)

    def soon(self, work: Callable[[], None]) -> None:
        """Has the loop do it, from any thread."""
        self._shell.loop.call_soon_threadsafe(work)

    async def close(self) -> None:
        """Gives every lease back; who waits for one waits no more."""
        for waiting in list(self._waiting):
            waiting.cancel()
        for lease in list(self._live):
            await lease.release()


class HeldLease:
    """A lease as a context manager, async or, in a `def` verb, plain; it is acquired on entering and given back on leaving.

    Without a block it is acquired at its first use, and given back when the agent ends. `lost` is set while the lease has ended
    under its holder.
    """

    def __init__(self, holder: AgentLeases, request: leases.AcquireLease) -> None:
        self._holder = holder
        self._request = request
        self._renewing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._users = 0
        self._in_use = False
        self._idle_untold = False
        self.lost = asyncio.Event()
        self.granted: LeaseGranted

    async def __aenter__(self) -> HeldLease:
        async with self._turn:
            await self._acquire(self._request.in_use)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    def __enter__(self) -> HeldLease:
        return self._holder.off_loop(self.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.off_loop(self.release())

    @property
    def held(self) -> bool:
        """Whether it is leased now, as far as is known here."""
        return self._renewing is not None and not self.lost.is_set()

    def busy(self) -> Use:
        """`async with held.busy():` (in a `def` verb `with`) is one use: the lease is not evicted meanwhile.

        A lease that was evicted or put to sleep before, or never acquired, is acquired first, within its `wait_s`; raises
        NoCapacity where there is no room. Look then whether the model must be loaded again.
        """
        return Use(self._holder, self)

    async def mark_idle(self) -> None:
        """From now on it may be evicted. Raises LeaseLost."""
        await self._mark(in_use=False)

    async def mark_in_use(self) -> None:
        """From now on it may not be evicted. Raises LeaseLost."""
        await self._mark(in_use=True)

    async def mark_loaded(self) -> None:
        """Its model is on the card: the next one may be loaded there. Raises LeaseLost."""
        await self._mark(loaded=True)

    def check(self) -> None:
        """Raises LeaseLost where the lease has ended, as far as is known here; for whoever computes for long."""
        if not self.held:
            raise LeaseLost(f"the lease of {self._request.model} is not held any more")

    async def release(self) -> None:
        """Gives the bytes back; a second call does nothing."""
        if self._renewing is None:
            return
        self._stop()
        gone = leases.ReleaseLease(lease_id=self.granted.lease_id, fencing_token=self.granted.fencing_token)
        try:
            await self._holder.client.call(self._keeper, leases.RELEASE_LEASE, gone, timeout_s=ANSWER_S)
        except (NotFound, StaleFence):
            return
        except TandemError as failure:
            _log.warning(
                "lease %s was not released (%s); its card takes it back when this process ends", gone.lease_id, failure
            )

    async def renew(self) -> None:
        """Starts its TTL anew, and notices where it has ended."""
        granted = self.granted
        renewal = leases.RenewLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token)
        try:
            await self._holder.client.call(self._keeper, leases.RENEW_LEASE, renewal, timeout_s=self._every_s)
        except (NotFound, StaleFence) as ended:
            if granted is self.granted:
                self._lose(ended.message)
        except TandemError as failure:
            _log.info("lease %s was not renewed this time: %s", renewal.lease_id, failure)

    async def begin_use(self) -> None:
        """One user more; see `busy`."""
        async with self._turn:
            self._idle_untold = False
            try:
                self.check()
                if not self._in_use:
                    await self._say(in_use=True)
            except LeaseLost:
                await self._acquire(in_use=True)
            self._users += 1

    def end_use(self) -> None:
        """One user less. That the last one has gone is told aside, and again until it was heard."""
        self._users -= 1
        if not self._users:
            self._idle_untold = True
            self._holder.spawn(self._tell_idle())

    @property
    def _keeper(self) -> str:
        return f"Supervisor/{self.granted.host}"

    @property
    def _every_s(self) -> float:
        return max(0.1, self.granted.expires_in_s / RENEWALS_PER_TTL)

    async def _acquire(self, in_use: bool) -> None:
        self._stop()
        self.granted = await self._holder.acquire(msgspec.structs.replace(self._request, in_use=in_use))
        self.lost.clear()
        self._in_use = in_use
        self._renewing = self._holder.spawn(self._keep_renewing())
        self._holder.note(self, live=True)

    def _stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
        self._holder.note(self, live=False)

    async def _keep_renewing(self) -> None:
        while not self.lost.is_set():
            await asyncio.sleep(self._every_s)
            await self.renew()
            if self._idle_untold:
                await self._tell_idle()

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            _log.warning("lease %s ended under its holder: %s", self.granted.lease_id, why)
            self.lost.set()

    async def _tell_idle(self) -> None:
        async with self._turn:
            if not (self._idle_untold and self.held):
                return
            try:
                await self._say(in_use=False)
            except LeaseLost:
                return
            except TandemError as failure:
                _log.info("lease %s is idle, which nobody heard yet: %s", self.granted.lease_id, failure)
            else:
                self._idle_untold = False

    async def _mark(self, *, in_use: bool | None = None, loaded: bool | None = None) -> None:
        async with self._turn:
            self.check()
            await self._say(in_use=in_use, loaded=loaded)

    async def _say(self, *, in_use: bool | None = None, loaded: bool | None = None) -> None:
        mark = leases.MarkLease(
            lease_id=self.granted.lease_id,
            fencing_token=self.granted.fencing_token,
            in_use=in_use,
            loaded=loaded,
        )
        try:
            marked = await self._holder.client.call(self._keeper, leases.MARK_LEASE, mark, timeout_s=ANSWER_S)
        except (NotFound, StaleFence) as ended:
            self._lose(ended.message)
            raise LeaseLost(ended.message, **ended.details) from ended
        self._in_use = marked.in_use


class Use:
    """One use of a lease, as a context manager, async or, in a `def` verb, plain."""

    def __init__(self, holder: AgentLeases, lease: HeldLease) -> None:
        self._holder = holder
        self._lease = lease

    async def __aenter__(self) -> HeldLease:
        await self._lease.begin_use()
        return self._lease

    async def __aexit__(self, *_: object) -> None:
        self._lease.end_use()

    def __enter__(self) -> HeldLease:
        self._holder.off_loop(self._lease.begin_use())
        return self._lease

    def __exit__(self, *_: object) -> None:
        self._holder.soon(self._lease.end_use)


def this_process(agent_name: str, host: str) -> leases.Owner:
    """This process as a lease's owner; its host looks the start time up."""
    return leases.Owner(agent_name=agent_name, host=host, pid=os.getpid())
