"""A lease for a command: asked for with patience, renewed and measured while the command runs, given back at its end.

The lease hangs on this process's life: whatever happens here, its card's supervisor takes the bytes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec

from common.api import decisions, leases, resource_manager
from common.api.leases import AcquireLease, LeaseGranted, LeaseProgress
from common.client.aio import AsyncClient
from common.errors import Interrupted, NoCapacity, NotFound, StaleFence, TandemError, Unavailable
from common.ids import new_id
from common.telemetry.system_clock import system_rng
from common.vram.placement import soonest
from tandem.asking import SUPERVISOR, keeper_of
from tandem.output import age, shortfall, size

GRACE_S: Final = 10.0
"""An answer may come so long after the wait ended."""
RESTART_S: Final = 1.5
"""A ResourceManager that went away midway is waited for this long, so that its queue is not left in a hurry.

A supervisor, in whose stead nobody answers, is waited for as long as the request would wait for room.
"""
FIRST_WORD_S: Final = 0.7
"""ResourceManager says at once what it makes of a request; where nothing comes, its host is gone or hangs."""
PAUSE_S: Final = 0.2
RENEWALS_PER_TTL: Final = 3
MEASURE_S: Final = 2.0
FIRST_MEASURE_S: Final = 0.15
LAST_MEASURE_S: Final = 1.0
"""How long the end of a command waits for the last measurement."""


class Asking:
    """One request for a lease, from whoever can answer it; `hosts` are those whose cards will do."""

    def __init__(
        self,
        client: AsyncClient,
        request: AcquireLease,
        hosts: list[str],
        progress: Callable[[LeaseProgress], None],
        warn: Callable[[str], None],
    ) -> None:
        self._client = client
        self._request = request
        self._hosts = hosts
        self._progress = progress
        self._warn = warn
        self._last: LeaseProgress | None = None
        self._queued = False
        self._lost_at: float | None = None
        self._began = time.monotonic()

    async def granted(self) -> LeaseGranted:
        """The lease. Raises NoCapacity with need, free, position and reason when the wait was in vain."""
        try:
            try:
                return await self._from(resource_manager.SERVICE)
            except Unavailable as away:
                return await self._alone(away)
        except NoCapacity as refusal:
            raise self._gave_up(refusal) from None

    async def _alone(self, away: Unavailable) -> LeaseGranted:
        self._last = None
        host = await self._best_host()
        self._warn(f"ResourceManager is away ({away.message}); asking the supervisor of {host} alone")
        # Under the old key ResourceManager may yet be granted a lease, which it gives back, since nobody hears of it.
        self._request = msgspec.structs.replace(self._request, idempotency_key=new_id("key", system_rng()))
        return await self._from(f"{SUPERVISOR}{host}")

    async def _best_host(self) -> str:
        asked = self._request
        wish = msgspec.convert(asked, decisions.PlanLease, from_attributes=True)
        plans: dict[str, decisions.LeasePlan] = {}
        for host in self._hosts if len(self._hosts) > 1 else ():
            try:
                plans[host] = await self._client.call(f"{SUPERVISOR}{host}", decisions.PLAN, wish, idempotent=False)
            except TandemError:
                continue
        chosen = soonest(plans.values()) if plans else None
        if chosen is None or chosen.outcome == "never":  # it may fit where nobody has answered yet
            return next((host for host in self._hosts if host not in plans), self._hosts[0])
        return next(host for host, plan in plans.items() if plan is chosen)

    async def _from(self, target: str) -> LeaseGranted:
        """What the target grants; while one that a request in line was lost with is away, it is asked again."""
        self._lost_at = None
        while True:
            try:
                return await self._once(target)
            except (Interrupted, Unavailable) as error:
                if not self._queued or self._given_up(target):
                    raise Unavailable(error.message) from None
                if self._lost_at is None:
                    self._lost(target, error)
            await asyncio.sleep(PAUSE_S)

    def _lost(self, target: str, error: TandemError) -> None:
        self._lost_at = time.monotonic()
        if target != resource_manager.SERVICE:
            self._warn(f"{target} is away ({error.message}); it is asked again until the wait is over")

    def _given_up(self, target: str) -> bool:
        """Whether it has been away for too long."""
        alone = target != resource_manager.SERVICE
        away_s = 0.0 if self._lost_at is None else time.monotonic() - self._lost_at
        return away_s > RESTART_S and not (alone and self._left_s() > 0)

    def _left_s(self) -> float:
        """How long it still would wait for room."""
        return max(0.0, self._request.wait_s - (time.monotonic() - self._began))

    async def _once(self, target: str) -> LeaseGranted:
        left_s = self._left_s()
        asked = msgspec.structs.replace(self._request, wait_s=left_s)
        stream = self._client.stream(target, leases.ACQUIRE_LEASE, asked, timeout_s=left_s + GRACE_S)
        patience_s = FIRST_WORD_S if target == resource_manager.SERVICE else None
        async with aclosing(stream) as items:
            while (item := await _next(items, patience_s)) is not None:
                if isinstance(item, LeaseGranted):
                    return item
                patience_s, self._lost_at = None, None
                self._last, self._queued = item, True
                self._progress(item)
        raise Interrupted(f"{target} ended its answer without one")

    def _gave_up(self, refusal: NoCapacity) -> NoCapacity:
        last, told = self._last, refusal.details
        free = int(told.get("free_bytes") or (last.free_bytes if last else 0))
        position = int(told.get("position") or (last.position if last else 0))
        waited = time.monotonic() - self._began
        place = f" at place {position}" if position else ""
        ended = f"gave up after {age(waited)}{place}"
        if waited < self._request.wait_s:
            ended = "not waited for, since waiting would bring nothing"
        text = f"{ended}: {shortfall(self._request.bytes, free, refusal.message)}"
        own = {
            "need_bytes": self._request.bytes,
            "free_bytes": free,
            "position": position,
            "waited_s": round(waited, 3),
            "reason": refusal.message,
        }
        return NoCapacity(text, retry_after_ms=refusal.retry_after_ms, **(told | own))


async def _next(items: AsyncGenerator[Any, None], patience_s: float | None) -> Any:
    """The next item, None after the last. Unavailable when nothing came in `patience_s` (None: as long as the call lasts)."""
    try:
        async with asyncio.timeout(patience_s):
            return await anext(items, None)
    except TimeoutError:
        raise Unavailable(f"it said nothing within {patience_s} s") from None


class Holding:
    """A granted lease in use; `lost` gets the reason when it ended under its holder."""

    def __init__(self, client: AsyncClient, granted: LeaseGranted, ttl_s: float, warn: Callable[[str], None]) -> None:
        self._client = client
        self._keeper = keeper_of(granted.host)
        self._ttl_s = ttl_s
        self._warn = warn
        self._warned = False
        self.granted = granted
        self.peak_bytes: int | None = None
        self.taken_back = ""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def renew(self) -> None:
        """Renew until the lease is lost; while its keeper is away it stands by this process's life."""
        every_s = max(0.1, self._ttl_s / RENEWALS_PER_TTL)
        asked = leases.RenewLease(lease_id=self.granted.lease_id, fencing_token=self.granted.fencing_token)
        while not self.lost.done():
            await asyncio.sleep(every_s)
            try:
                await self._client.call(self._keeper, leases.RENEW_LEASE, asked, timeout_s=max(1.0, every_s))
            except (NotFound, StaleFence) as ended:
                self.lost.set_result(ended.message)
            except TandemError:
                continue

    async def measure(self) -> None:
        """Follow what the command's processes really hold; warn once when it is over the lease by more than a twentieth.

        At first it asks often, since a short command ends before the next time, and one that starts holds nothing yet.
        """
        pause_s = FIRST_MEASURE_S
        while True:
            await asyncio.sleep(pause_s)
            await self._measure_once(MEASURE_S)
            pause_s = min(MEASURE_S, pause_s * 1.5)

    async def measure_last(self) -> None:
        """Take in what the card's last look at the command saw, now that it has ended."""
        await self._measure_once(LAST_MEASURE_S)

    async def mark_cgroup(self, cgroup: str) -> bool:
        """Say in which cgroup the command's container runs; False where that should be said again."""
        granted = self.granted
        asked = leases.MarkLease(lease_id=granted.lease_id, fencing_token=granted.fencing_token, cgroup=cgroup)
        try:
            await self._client.call(self._keeper, leases.MARK_LEASE, asked, timeout_s=MEASURE_S)
        except (NotFound, StaleFence):
            return True  # the lease has ended, and renewing it tells so
        except TandemError:
            return False
        return True

    async def _measure_once(self, timeout_s: float) -> None:
        asked = leases.ListLeases(host=self.granted.host)
        try:
            found = await self._client.call(self._keeper, leases.LIST_LEASES, asked, timeout_s=timeout_s)
        except TandemError:
            return
        own = next((each for each in found.leases if each.lease_id == self.granted.lease_id), None)
        if own is None or own.state == "expiring":
            self.taken_back = (own.reason if own is not None else "") or "it has ended"
        if own is not None and own.verified:
            self.peak_bytes = max(self.peak_bytes or 0, own.measured_bytes)
            self._compare(own.measured_bytes)

    def _compare(self, held: int) -> None:
        leased = self.granted.bytes * max(1, len(self.granted.card_uuids))
        if leased and held * 20 > leased * 21 and not self._warned:
            self._warned = True
            more = f"{size(held)} held, {size(leased)} leased on {self.granted.host}:{self.granted.card}"
            self._warn(f"the command holds more VRAM than its lease: {more}; ask for more with --vram")

    async def release(self) -> None:
        """Give the bytes back; where that fails they come back when this process ends."""
        asked = leases.ReleaseLease(lease_id=self.granted.lease_id, fencing_token=self.granted.fencing_token)
        try:
            await self._client.call(self._keeper, leases.RELEASE_LEASE, asked, timeout_s=5.0)
        except (NotFound, StaleFence):
            return
        except TandemError as failure:
            self._warn(f"the lease was not released ({failure.message}); its card takes it back when this process ends")
