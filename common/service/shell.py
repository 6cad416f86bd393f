"""The shell every service and agent stands in: one loop, its ports, its routes, its journal, its health, its end.

A room hands in its verbs and handlers; the shell opens the ports, answers the basic verbs, beats, sweeps deadlines, and drains
when told to stop. It decides nothing about what a verb means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from common.api.basic import BreakerStats, Health, Phase, Status
from common.api.words import Topic, Verb
from common.config.settings import supervisors_mark
from common.errors import Conflict, Unavailable
from common.ids import new_id
from common.resilience.bulkhead import Bulkhead
from common.service import basics
from common.service.authority import FOLLOW_S, NO_KEYS, Authority
from common.service.journal import PROBE_S, Journal
from common.service.onion import Onion
from common.service.paces import Paces
from common.service.publisher import Publisher
from common.service.routes import Rep, Req, Routes, TypedHandler
from common.service.settings import VERSION, ShellSettings
from common.store.memory import MemoryStore
from common.store.protocol import Durability, RecordStore
from common.telemetry.meters import Meters
from common.telemetry.metrics import Metrics
from common.telemetry.system_clock import SystemClock, system_rng
from common.transport import sockets
from common.transport.events import EventPort
from common.transport.health_port import HealthPort
from common.transport.router_port import RouterPort, open_ports
from common.transport.zap import Gate

__all__ = ["Shell", "ShellSettings"]

SWEEP_S: Final = 0.25
BEAT_S: Final = 1.0
DRAIN_S: Final = 5.0
PARTING_S: Final = 0.1
"""The last answers leave this long before their connections end: libzmq drops what was not read by then (IMMEDIATE)."""
RETRY_ADDRESS_S: Final = 2.0
REOPEN_S: Final = 0.05
"""An address that cannot be bound is tried again after this time, then ever later, at the latest after RETRY_ADDRESS_S."""
KEYRING: Final = "keyring"
UNROUTABLE: Final = "unroutable"
"""The meter of messages that named no verb served here."""


class Shell:
    """One process's shell, made on its running loop."""

    def __init__(
        self,
        settings: ShellSettings,
        topics: Sequence[Topic] = (),
        store: RecordStore | None = None,
        durability: Durability = Durability.NORMAL,
    ) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.clock = SystemClock()
        self.rng = system_rng()
        self.boot = new_id("boot", self.rng)
        self._mark = supervisors_mark()
        self.context = sockets.new_context()
        self.log = logging.getLogger("tandem.service")
        self.phase: Phase = "starting"
        self.lacks: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.store = store if store is not None else MemoryStore()
        self.journal = Journal(self.store, durability=durability)
        self._journals = [self.journal]
        self._stores = [self.store]
        self.topics = tuple(topics)
        self.publisher = Publisher(topics, int(self.clock.wall() * 1000), self.clock.timestamp, self.journal)
        self.metrics = Metrics()
        self.meters = Meters(self.clock.monotonic())
        self.breakers: Callable[[], Iterable[BreakerStats]] = list
        self.routes = Routes(self.meters.of)
        self.authority = Authority(settings, self.clock, lambda verb: self.routes.get(verb) is not None)
        self.onion = self._layers()
        self.port = self.events_port = self.health_port = 0
        self._started_at = self.clock.monotonic()
        self._ports: list[RouterPort] = []
        self._events: EventPort | None = None
        self._gate: Gate | None = None
        self._health: HealthPort | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._paces = Paces(self.log)
        self._stop = asyncio.Event()
        self._show_metrics()
        basics.add_routes(self)

    def _layers(self) -> Onion:
        who, refused = self.authority, self.meters.of(UNROUTABLE)
        return Onion(self.routes, self._journals, Bulkhead(), self.clock, who.identify, who.authorize, refused)

    def _show_metrics(self) -> None:
        metrics = self.metrics
        metrics.show_meters(self.meters, self.clock)
        metrics.show_breakers(self._breaker_stats)
        metrics.read_gauge("tandem_service_ready", "1 while work is taken.", lambda: float(self.phase == "ready"))
        metrics.read_gauge("tandem_service_calls_waiting", "Calls being waited for.", lambda: self.onion.in_flight)
        for name, (text, read) in self._counters().items():
            metrics.read_counter(f"tandem_service_{name}_total", text, read)

    def _counters(self) -> dict[str, tuple[str, Callable[[], float]]]:
        return {
            "replies_undelivered": (
                "Replies whose caller was gone or did not read.",
                lambda: sum(port.undelivered for port in self._ports),
            ),
            "commits": ("Groups made durable.", lambda: sum(journal.commits for journal in self._journals)),
            "commits_failed": (
                "Groups that could not be made durable.",
                lambda: sum(journal.failures for journal in self._journals),
            ),
            "keys_refused": (
                "Connections to encrypted ports that came with a key that is not known.",
                lambda: self._gate.refused if self._gate is not None else 0,
            ),
            "events": ("Events published.", lambda: self._events.sent if self._events is not None else 0),
        }

    def _breaker_stats(self) -> Iterable[BreakerStats]:
        return self.breakers()

    def counters(self) -> dict[str, float]:
        """The process's counters, by name."""
        return {name: read() for name, (_, read) in self._counters().items()}

    def handle(self, verb: Verb[Req, Rep], handler: TypedHandler[Req, Rep], journal: Journal | None = None) -> None:
        """Serve `verb` by `handler(request, call)`; its facts are written to `journal`, the first one where none is said."""
        self.routes.add(verb, handler, journal or self.journal)

    def open_journal(self, store: RecordStore, durability: Durability) -> Journal:
        """A second journal, for records of another durability; it is probed, shown and closed with the first, its store too."""
        journal = Journal(store, durability=durability)
        self._journals.append(journal)
        self._stores.append(store)
        return journal

    def _probe(self) -> None:
        for journal in self._journals:
            journal.probe()

    def every(self, seconds: float, work: Callable[[], None]) -> None:
        """Call `work` about every so many seconds until the end; what it raises is logged and does not end it.

        All paces begin with the shell, so that works whose paces divide each other wake the process together.
        """
        self._paces.every(seconds, work)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` beside the calls until it ends or the shell does; a failure is logged."""
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._work_ended)
        return task

    def _work_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.log.error("%s ended with an error", task.get_name(), exc_info=task.exception())

    async def open(self, *, ready: bool = True) -> None:
        """Open the ports and begin to answer; Conflict when one is taken, Unavailable when the first address is absent.

        Without `ready` the health answer says that no work is taken yet, until `set_ready`.
        """
        try:
            self._open_ports()
        except Exception:
            await self.close(drain_s=0)
            raise
        if ready:
            self.set_ready()
        self.every(SWEEP_S, self._tick)
        self.every(BEAT_S, self.publisher.beat)
        self.every(PROBE_S, self._probe)
        self.every(FOLLOW_S, self._follow_keys)

    @property
    def server_key(self) -> str:
        """The key (Z85) to connect to its encrypted ports by; empty where it has none."""
        return self.authority.public if len(self.settings.addresses) > 1 else ""

    def set_ready(self) -> None:
        """Work is taken from now on."""
        self.phase = "ready"

    def _open_ports(self) -> None:
        settings, keys = self.settings, self.authority.keys
        if keys is not None:
            self._gate = Gate(self.context, self.authority.admits)  # before the first encrypted port
        first, *others = settings.addresses
        self._ports = open_ports(
            self.context, [sockets.Address(first, settings.port)], self.onion.receive, self.onion.drained
        )
        self.port = self._ports[0].number
        if settings.events_port is not None:
            self._events = EventPort(self.context, [sockets.Address(first, settings.events_port)])
            self.events_port = self._events.number
            self.publisher.open(self._events)
        if settings.health_port is not None:
            self._health = HealthPort("127.0.0.1", settings.health_port, self.report, self.metrics.exposition)
            self._health.start()
            self.health_port = self._health.port
        for host in others:
            if keys is None:
                self.lacks[host] = f"{host}: {NO_KEYS}"
            elif not self._listen_at(host, keys):
                self.spawn(self._listen(host, keys), f"listening on {host}")

    def _listen_at(self, host: str, keys: sockets.Keys) -> bool:
        """Open what is not open yet at an address of this host, encrypted; False, and the reason a lack, where it cannot be."""
        try:
            if not any(port.address.host == host for port in self._ports):
                address = sockets.Address(host, self.port, keys)
                self._ports += open_ports(self.context, [address], self.onion.receive, self.onion.drained)
            if self._events is not None and not self._events.is_open_at(host):
                self._events.add(sockets.Address(host, self.events_port, keys))
        except (Unavailable, Conflict) as error:
            self.lacks[host] = error.message
            return False
        self.lacks.pop(host, None)
        return True

    async def _listen(self, host: str, keys: sockets.Keys) -> None:
        pause_s = REOPEN_S
        while not self._listen_at(host, keys):
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_ADDRESS_S, 2 * pause_s)

    def _follow_keys(self) -> None:
        """Take in what the keyring says now: the calls of keys and tokens that were revoked end, and where a key was, encrypted
        subscriptions, which those who may make again.
        """
        followed = self.authority.follow()
        if followed != "as before":
            self.onion.dismiss(self.authority.withdrawn)
        if followed == "keys lost":
            self._publish_again()
        if self.authority.problem:
            self.problems[KEYRING] = self.authority.problem
        else:
            self.problems.pop(KEYRING, None)

    def _publish_again(self) -> None:
        keys = self.authority.keys
        if self._events is not None and keys is not None:
            for host in self._events.close_encrypted():
                self.spawn(self._listen(host, keys), f"publishing on {host} again")

    def _tick(self) -> None:
        if self._health is not None:
            self._health.heartbeat()
        self.onion.sweep()
        self.meters.tick(self.clock.monotonic())

    def report(self) -> Health:
        """This process's health; safe to call from any thread."""
        problems = [*self.problems.values(), *(journal.problem for journal in self._journals if journal.problem)]
        status: Status = "degraded" if problems else "ok"
        return Health(
            status=status,
            ready=self.phase == "ready",
            service=self.settings.service,
            version=VERSION,
            uptime=max(0.0, self.clock.monotonic() - self._started_at),
            boot=self.boot,
            host=self.settings.host,
            phase=self.phase,
            reasons=problems,
            lacks=list(self.lacks.values()),
            supervised=self._mark,
        )

    def uptime_s(self) -> float:
        """Seconds since the shell was made."""
        return max(0.0, self.clock.monotonic() - self._started_at)

    def stop(self) -> None:
        """Begin to end: whoever awaits `stopped` goes on."""
        self._stop.set()

    async def stopped(self) -> None:
        """Wait until the process is told to end."""
        await self._stop.wait()

    async def serve(self) -> None:
        """Answer until `stop`, then drain and close."""
        await self.stopped()
        await self.close()

    async def drain(self, within_s: float = DRAIN_S) -> None:
        """Refuse new work and let the work under way end, at most `within_s`; a second call does nothing."""
        if self.phase in ("draining", "stopped"):
            return
        self.phase = "draining"
        self.onion.draining = Unavailable(f"{self.settings.service} is shutting down", retry_after_ms=500)
        answers = self.onion.in_flight
        await self.onion.finish(within_s)
        if answers:
            await asyncio.sleep(PARTING_S)

    async def close(self, drain_s: float = DRAIN_S) -> None:
        """Drain, then close the ports, the health port last, and the store; a second call does nothing."""
        if self.phase == "stopped":
            return
        await self.drain(drain_s)
        self._paces.stop()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=1.0)
        for journal in self._journals:
            await journal.settle()
            journal.close()
        self._close_ports()
        if not await sockets.end(self.context):
            self.log.warning("some socket of %s is still open; it ends with the process", self.settings.service)
        for store in self._stores:
            store.close()

    def _close_ports(self) -> None:
        for port in self._ports:
            port.close()
        if self._events is not None:
            self._events.close()
        if self._gate is not None:
            self._gate.close()  # after the last encrypted port
        self.phase = "stopped"
        if self._health is not None:
            self._health.close()
