"""The supervisor's shell: performs what the desk decides on real processes, and lets the fabric ask and see.

One loop. Events wait their turn, and every instruction is performed before the next event is looked at. The service is up
before the first process is launched; until what an earlier supervisor left has ended, operations are refused as not yet.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from common.api import supervisor as api
from common.api.basic import Phase
from common.config.models import Model
from common.config.schema import Startup
from common.config.settings import Settings
from common.errors import NotFound, TandemError, Unavailable
from common.gpu.process_identity import MACHINE, this_machine
from common.gpu.simulated import SIMULATED_CARDS_VARIABLE
from common.ids import new_id
from common.reporting.reporter import ErrorReporter
from common.service.shell import Shell, ShellSettings
from common.store.open import open_store
from common.store.protocol import Durability
from common.supervisor.board import Progress, State
from common.supervisor.card_source import host_cards
from common.supervisor.desk import Desk, Standing
from common.supervisor.first_start import FirstStart, Verdict
from common.supervisor.home import HostHome
from common.supervisor.instructions import (
    Adopted,
    Asked,
    Changed,
    Doing,
    Event,
    Exited,
    Finished,
    Instruction,
    Kill,
    Launch,
    OperationEnded,
    Probe,
    Probed,
    ShutdownAsked,
    Terminate,
    Tick,
)
from common.supervisor.leasing.card_leases import CardLeases
from common.supervisor.leasing.restarting import FileOwners
from common.supervisor.links.keeper import Keeper
from common.supervisor.links.links import Links
from common.supervisor.models.service import ManagedModels
from common.supervisor.outside import Outside
from common.supervisor.probing import Prober
from common.supervisor.processes import Processes
from common.supervisor.showing import Showing
from common.supervisor.startup_file import read_again
from common.supervisor.verbs import Verbs
from common.supervisor.whereabouts import LOOPBACK, neighbours, outward
from common.supervisor.witness import Witness
from common.telemetry.system_clock import SystemClock

SERVICE: Final = "Supervisor"
OWN_LOG: Final = "supervisor"
LOOK_S: Final = 0.25
"""How often the first start is judged by the clock alone."""


class Supervisor:
    """One host's supervisor. `home` is claimed; `show` hears of every change, and must not wait.

    `config` is the startup file that `startup` was read from, to have its models read anew.
    """

    def __init__(
        self,
        startup: Startup,
        home: HostHome,
        settings: Settings,
        show: Callable[[Progress], None],
        environ: Mapping[str, str] = os.environ,
        config: Path | None = None,
    ) -> None:
        self._startup = startup
        self._config = config
        self._home = home
        self._settings = settings
        self._environ = dict(environ)
        ports = startup.supervisor
        keeper = Keeper(home.root.parent, startup, SystemClock())
        stands = ShellSettings(
            SERVICE,
            startup.host,
            ports.port,
            ports.events_port,
            ports.health_check_port,
            (LOOPBACK, *outward(startup)),
            keeper.process_file(OWN_LOG),
            lone=False,
            metadata={MACHINE: this_machine()},
        )
        self.shell = Shell(stands, api.TOPICS, open_store(home.root, OWN_LOG, Durability.NORMAL))
        self._outside = Outside(self.shell, startup, keeper, home.root.parent, self._environ, self._tell_soon)
        self._now = self.shell.clock.monotonic
        self._begun_at = self._now()
        self._witness = Witness(self.reporter, startup.host, self.shell.clock)
        self._desk = Desk(startup, self.shell.rng, self._begun_at)
        self._showing = Showing(
            self.shell, self._desk, home.root, show, self._state, self.elapsed_s, self.links.unjoined
        )
        self._first_start = FirstStart()
        self._start_over: asyncio.Future[Verdict] = self.shell.loop.create_future()
        self._finished = asyncio.Event()
        self._stop_asked = False
        self._events: deque[Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._prober = Prober(self.shell.context, self.shell.clock)
        self._processes: Processes | None = None
        self._models = ManagedModels(
            self.shell, startup.host, startup.models, home.root.parent, self._read_models, neighbours(startup)
        )
        self._leases: CardLeases | None = None
        self._no_cards = ""

    async def open(self) -> None:
        """Opens the ports, ends what an earlier supervisor left, and begins to start what the startup file says.

        Conflict where a port is taken; whatever is raised, `close` is to follow.
        """
        await self._open_leases()
        Verbs(self.shell, self.ask, self._showing.processes, self._showing.vitals, self._log_file).add_routes()
        self._models.add_routes()
        self._outside.add_routes()
        await self.shell.open(ready=False)
        await self._outside.open()
        surroundings = self._outside.surroundings(self._environ)
        processes = Processes(
            self._startup, self._home, self.shell.boot, self.shell.clock, self._feed, surroundings, self._witness
        )
        self._events.extend(Adopted(launched) for launched in await processes.open())
        self._processes = processes
        if self._stop_asked:
            return
        if self._leases is not None:
            await self._models.open(self._leases.own, processes, surroundings)
        self._work_off()
        self._work_off(self._desk.begin(self._now()))
        self._judge_start()
        self.shell.set_ready()
        self._outside.follow(self._feed)
        self.shell.every(self._startup.vitals_interval_s, self._showing.sample)
        self.shell.every(LOOK_S, self._judge_start)

    @property
    def links(self) -> Links:
        """This host's links to the others."""
        return self._outside.links

    @property
    def reporter(self) -> ErrorReporter:
        """Where what goes wrong here is told."""
        return self._outside.reporter

    async def started(self) -> Verdict:
        """Waits until the first start is over; `starting` where it was stopped before."""
        return await asyncio.shield(self._start_over)

    def missing(self) -> list[Standing]:
        """The processes that the first start did not bring up."""
        return self._first_start.missing(self._desk.standings(self._now()))

    def no_cards(self) -> str:
        """Why this host has no cards to lease; empty where it has, and before `open`."""
        return self._no_cards

    def elapsed_s(self) -> float:
        """Seconds since the supervisor began."""
        return self._now() - self._begun_at

    def stop(self) -> None:
        """Everything is to stop, in reverse order; `finished` tells when it has."""
        if self._stop_asked:
            return
        self._stop_asked = True
        if not self._start_over.done():
            self._start_over.set_result("starting")
        if self._processes is None:
            self._finished.set()
        else:
            self._feed(ShutdownAsked(self._now()))

    async def finished(self) -> None:
        """Waits until everything has stopped."""
        await self._finished.wait()

    async def close(self) -> None:
        """Ends what still runs and closes everything; the home is given back last."""
        if self._timer is not None:
            self._timer.cancel()
        self._showing.close()
        await self._models.close()
        if self._leases is not None:
            await self._leases.close()
        if self._processes is not None:
            await self._processes.close()
        await self._outside.close_relay()
        await self.shell.close(drain_s=0.5)
        await self._outside.close()
        self._home.release()

    def ask(self, name: str, doing: Doing) -> tuple[str, Phase]:
        """Begins an operation; its id, and the phase the process is in now. NotFound for an unknown name."""
        if self._processes is None:
            raise Unavailable("this host's supervisor is starting", retry_after_ms=200)
        self._work_off()
        operation_id = new_id("op", self.shell.rng)
        self._work_off(self._desk.handle(Asked(name, doing, operation_id, self._now())))
        return operation_id, self._desk.standing(name, self._now()).phase

    async def _open_leases(self) -> None:
        startup, home = self._startup, self._home.root.parent
        settings = self._settings
        cards = await host_cards(startup, home, simulate=settings.simulate_cards, leave_real=settings.leave_real_cards)
        if cards.folder is not None:
            self._environ[SIMULATED_CARDS_VARIABLE] = str(cards.folder)
        self._no_cards = cards.problem
        owners = FileOwners(lambda: self._desk.standings(self._now()), lambda name: self.ask(name, "restart"))
        known = neighbours(startup)
        self._leases = CardLeases(
            self.shell,
            startup.host,
            cards.source,
            cards.problem,
            known,
            lambda order: self._models.unloader(order) or owners.find(order),
            home=self._home.root,
            footprints=self._models.footprints,
        )
        self._leases.strangers.back = self._models.bring_back
        self._leases.add_routes()
        await self._leases.open()

    async def _read_models(self) -> list[Model]:
        """The models that the startup file has now; BadRequest with its problems."""
        return (await read_again(self._config)).models if self._config is not None else self._startup.models

    def _feed(self, event: Event) -> None:
        if isinstance(event, Exited) and self._models.exited(event):
            return
        self._events.append(event)
        self.shell.loop.call_soon(self._work_off)

    def _work_off(self, instructions: Iterable[Instruction] = ()) -> None:
        """Performs `instructions`, then looks at the events that wait, in the order in which they came."""
        if self._processes is None:
            return
        self._perform(instructions, self._processes)
        while self._events:
            event = self._events.popleft()
            try:
                self._perform(self._desk.handle(event), self._processes)
            except TandemError as error:
                self.shell.log.error("%s was not worked off: %s", type(event).__name__, error.message, exc_info=error)
        self._arm()
        self._tell_soon()

    def _perform(self, instructions: Iterable[Instruction], processes: Processes) -> None:
        for instruction in instructions:
            self._first_start.note(instruction, self._now())
            match instruction:
                case Launch(name, life):
                    self._events.append(processes.launch(name, life))
                case Probe(name, life):
                    self.shell.spawn(self._probe(name, life), f"probing {name}")
                case Terminate(name):
                    processes.terminate(name)
                case Kill(name):
                    processes.kill(name)
                case Changed(name, was, now):
                    self._changed(name, was, now)
                case OperationEnded():
                    self._log_end(instruction)
                case Finished():
                    self._showing.tell()
                    self.shell.spawn(self._finish(), "stopping engines")

    async def _finish(self) -> None:
        """The engines go last: whatever used them has stopped."""
        try:
            await self._models.close()
        finally:
            self._finished.set()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        due = self._desk.next_at()
        if due is not None:
            self._timer = self.shell.loop.call_later(max(due - self._now(), 0.0), self._tick)

    def _tick(self) -> None:
        self._feed(Tick(self._now()))

    async def _probe(self, name: str, life: int) -> None:
        standing = self._desk.standing(name, self._now())
        if standing.launched is None:
            return
        try:
            reason = await self._prober.ask(standing.entry.health, standing.launched)
        except Exception as error:
            self.shell.log.exception("probing %s failed", name)
            reason = f"the probe failed: {error}"
        self._feed(Probed(name, life, self._now(), not reason, reason))

    def _changed(self, name: str, was: Phase, now: Phase) -> None:
        standing = self._desk.standing(name, self._now())
        if was == "draining" and standing.late:
            self._witness.late(name, standing.last_exit, standing.stderr_tail)
        self._judge_start()
        self._showing.changed(standing, was, now)

    def _log_end(self, ended: OperationEnded) -> None:
        outcome = "done" if ended.succeeded else f"not done: {ended.reason}"
        self.shell.log.info("%s on %s is %s", ended.operation_id, ended.name, outcome)

    def _judge_start(self) -> None:
        if not self._start_over.done():
            verdict = self._first_start.verdict(self._desk.standings(self._now()), self._now())
            if verdict != "starting":
                self._start_over.set_result(verdict)
                self._showing.tell()

    def _tell_soon(self) -> None:
        self._showing.tell_soon()

    def _state(self) -> State:
        if self._stop_asked:
            return "stopping"
        return self._start_over.result() if self._start_over.done() else "starting"

    def _log_file(self, name: str) -> Path | None:
        try:
            self._desk.standing(name, self._now())
        except NotFound:
            log_name = OWN_LOG if name == OWN_LOG else self._models.log_name(name)
            return self._home.log_file(log_name) if log_name is not None else None
        return self._home.log_file(name)
