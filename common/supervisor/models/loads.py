"""One load of one model: its engine started, woken or asked, until it answers. Its lease is there before.

It chooses nothing and retries nothing: what went wrong is an error with the reason, in the engine's last words if it has any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from common.api.leases import LeaseGranted, Owner
from common.client.probing import knock
from common.config.models import Model
from common.engines.engine import Engine, Health
from common.engines.opening import open_engine
from common.errors import TandemError, Unavailable
from common.gpu.container import Container
from common.resilience.polling import Polling
from common.service.shell import Shell
from common.supervisor.leasing.own_line import OwnLine
from common.supervisor.models.engine_process import EngineProcess, EngineProcesses, last_words
from common.supervisor.models.listeners import absence, listener, port_of
from common.supervisor.models.managed import Serving
from common.supervisor.models.slots import KeptSlots
from common.vram.cards import ProcessId

T = TypeVar("T")

POLLING: Final = Polling(soonest_s=0.004, slowest_s=0.25, part=0.01)
"""The wait between two looks at a loading engine: a hundredth of the time since its launch, between these two."""
RESTORE_S: Final = 10.0
UPSTREAM_S: Final = 2.0
LOOPBACK: Final = "127.0.0.1"


class Room:
    """What the host holds of one model beside its state: the adapter, the process, the load under way."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.process: EngineProcess | None = None
        self.task: asyncio.Task[None] | None = None
        self.to_stop = False
        self.loaded_at = 0.0

    async def close(self) -> None:
        """Speaks with its engine no more."""
        engine, self.engine, self.process = self.engine, None, None
        if engine is not None:
            await engine.close()


class Loads:
    """Loads on this host; `processes` are its engines', `slots` the prompt caches that were saved."""

    def __init__(self, shell: Shell, host: str, line: OwnLine, processes: EngineProcesses, slots: KeptSlots) -> None:
        self._now = shell.clock.monotonic
        self._log = shell.log
        self._spawn = shell.spawn
        self._host = host
        self._line = line
        self._processes = processes
        self._slots = slots

    async def start(self, model: Model, room: Room, granted: LeaseGranted) -> Serving:
        """Launches the engine on the lease's cards, binds the lease to it, and waits until it is ready."""
        cards = granted.card_uuids if model.vram else []
        process = room.process = self._processes.launch(model, granted.lease_id, cards)
        self._line.rebind(granted.lease_id, self.owner(model, _process(process)))
        if process.container is not None:
            self._follow(process, process.container, granted.lease_id)
        engine = room.engine = open_engine(model.engine, process.url, health_path=model.health.path)
        await self._until_ready(model, engine, process)
        saved = await self._slots.for_engine(model)
        if saved is not None:
            claim = await engine.restore_slots(saved.slots, "", RESTORE_S)
            self._log.info("model %s: %s", model.name, claim.text)
            await self._slots.forget(saved)
        return await self._serving(model, engine, _process(process))

    async def wake(self, model: Model, room: Room, serving: Serving) -> Serving:
        """Has a sleeping engine take its memory again; Unavailable where it would not, and then it may hold a part of it."""
        engine = room.engine
        if engine is None:
            raise Unavailable(f"{model.name}: nothing is left to wake")
        claim = await engine.wake(float(model.health.ready_within_s))
        if not claim.ok:
            raise Unavailable(f"{model.name} does not wake: {claim.text}")
        await self._until_ready(model, engine, room.process)
        return serving

    async def bring(self, model: Model, room: Room, owner: ProcessId) -> Serving:
        """Has an engine that runs already load the model."""
        engine = room.engine = room.engine or open_engine(model.engine, model.url, health_path=model.health.path)
        upstream = await self._upstream(model, engine)
        if "load" in engine.powers:
            claim = await engine.load(upstream, float(model.health.ready_within_s))
            if not claim.ok:
                raise Unavailable(f"{model.name}: {claim.text}")
        await self._until_ready(model, engine, None)
        return Serving(url=engine.url, upstream=upstream, pid=owner.pid, start_time=owner.start_time)

    async def owner_of(self, model: Model) -> ProcessId:
        """The process that listens at the address of an engine that runs already; Unavailable where none does."""
        found = await asyncio.to_thread(listener, port_of(model.url))
        if found is None:
            raise Unavailable(await asyncio.to_thread(absence, model) or f"{model.engine} at {model.url} is starting")
        return found

    def owner(self, model: Model, process: ProcessId) -> Owner:
        """The process as the owner of a lease."""
        return Owner(agent_name=model.label, host=self._host, pid=process.pid, start_time=process.start_time)

    def _follow(self, process: EngineProcess, container: Container, lease_id: str) -> None:
        """Has the lease know the container's cgroup as soon as there is one, for as long as its command runs."""

        async def tell(cgroup: str) -> bool:
            with suppress(TandemError):
                self._line.mark(lease_id, cgroup=cgroup)
                return True
            return False

        task = self._spawn(container.follow(tell), f"following the container of {process.model.name}")
        process.ended.add_done_callback(lambda _: task.cancel())

    async def _until_ready(self, model: Model, engine: Engine, process: EngineProcess | None) -> None:
        began, within_s = self._now(), float(model.health.ready_within_s)
        while True:
            health = await self._health(model, engine, process)
            if process is not None and process.ended.done():
                raise Unavailable(f"its engine ended before it was ready: {last_words(process.ended.result())}")
            passed_s = self._now() - began
            if health.state == "ready":
                return
            if passed_s >= within_s:
                raise Unavailable(f"not ready within {within_s:g} s: {health.reason or health.state}")
            pause_s = min(POLLING.pause_s(passed_s), within_s - passed_s)
            await _unless_ended(process, asyncio.sleep(pause_s))

    async def _health(self, model: Model, engine: Engine, process: EngineProcess | None) -> Health:
        """One look; it ends with the engine's process, if that comes first."""
        if model.health.how == "none":
            return Health("ready")
        within_s = float(model.health.timeout_s)
        asking = _knocked(port_of(engine.url), within_s) if model.health.how == "tcp" else engine.health(within_s)
        return await _unless_ended(process, asking) or Health("absent", "its process has ended")

    async def _serving(self, model: Model, engine: Engine, process: ProcessId) -> Serving:
        upstream = await self._upstream(model, engine)
        return Serving(url=engine.url, upstream=upstream, pid=process.pid, start_time=process.start_time)

    async def _upstream(self, model: Model, engine: Engine) -> str:
        """What a request must call the model there; as the entry says where the engine does not tell."""
        if "workflow" in engine.capabilities:
            return model.upstream_name
        with suppress(TandemError):
            return await engine.upstream(model.upstream_name, UPSTREAM_S)
        if not model.adopted and not model.upstream:
            with suppress(TandemError):
                served = await engine.models(UPSTREAM_S)
                if len(served) == 1:
                    return served[0]
        return model.upstream_name


def _process(process: EngineProcess) -> ProcessId:
    return ProcessId(process.launched.pid, process.launched.start_time)


async def _unless_ended(process: EngineProcess | None, work: Coroutine[Any, Any, T]) -> T | None:
    """The outcome of the work, or None as soon as the process has ended."""
    task = asyncio.create_task(work)
    waited: set[asyncio.Future[Any]] = {task} if process is None else {task, process.ended}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()


async def _knocked(port: int, within_s: float) -> Health:
    try:
        async with asyncio.timeout(within_s):
            await knock(LOOPBACK, port)
    except TimeoutError:
        return Health("failing", f"no connection within {within_s:g} s")
    except (OSError, TandemError) as error:
        return Health("absent", f"no connection: {error}")
    return Health("ready")
