"""ObservabilityHub: watches every process, host and link, and keeps the history of metrics; this file wires it to one shell.

It takes up the verdicts of its former life, opens its ports and is ready; it waits for no other service. Whoever knows is
followed in `watching`, everybody is asked in `probing` and `scraping`, the ward decides, and points are kept in `recording`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from common.api import observability_hub as api
from common.api.catalog import OBSERVABILITY_HUB
from common.api.observability_hub import HostHealth, ProcessHealth
from common.api.supervisor import Vitals
from common.client.directory import Directory
from common.client.opening import open_async_client
from common.client.settings import at_own_pace
from common.clock import timestamp
from common.config.settings import AgentEnvironment
from common.errors import NotFound, TandemError
from common.service.call import Call
from common.service.process import run_service
from common.service.shell import Shell, ShellSettings
from common.store.protocol import Change, RecordStore
from common.store.records import Records
from pc2.observability_hub.evidence import Outcome
from pc2.observability_hub.exposition import Exposition, vitals_values
from pc2.observability_hub.links import Links
from pc2.observability_hub.probing import Probing
from pc2.observability_hub.recording import Recording
from pc2.observability_hub.scraping import TURN_S as SCRAPE_TURN_S
from pc2.observability_hub.scraping import Scraping
from pc2.observability_hub.subjects import LOOPBACK, Subject
from pc2.observability_hub.ward import Changed, Host, Instruction, Look, Stood, Ward
from pc2.observability_hub.watching import WatchedHost, WatchedRegistry

HOST: Final = "pc2"
HOME_OF_AGENTS: Final = "mainpc"
"""The registry's host, where agents are that name none."""
STORE: Final = "observability_hub"
METRICS: Final = "metrics.db"
SUPERVISOR: Final = "Supervisor/"
TICK_S: Final = 0.25
TIDY_S: Final = 1.0
LINKS_S: Final = 2.0
DOUBT: Final = "doubt"

HEALTH: Final = Records("health", Stood)


class ObservabilityHub:
    """The service, made on its running loop; `folder` is where the history of metrics lies."""

    def __init__(self, settings: ShellSettings, directory: Directory, store: RecordStore, folder: Path) -> None:
        self.shell = shell = Shell(settings, api.TOPICS, store)
        self._clock = shell.clock
        self._client = open_async_client(at_own_pace(), directory)
        supervisors = [name for name in directory.names() if name.startswith(SUPERVISOR)]
        hosts = [name.removeprefix(SUPERVISOR) for name in supervisors]
        near = frozenset(host for host in hosts if host == settings.host or _is_near(directory, host))
        stood = dict(HEALTH.load(store))
        self._ward = ward = Ward(hosts, near, stood, self._clock.monotonic(), self._clock.wall())
        self._recording = Recording(shell, folder / METRICS)
        self._probing = Probing(shell, ward, self._client, self._probed, self._late)
        self._scraping = Scraping(shell, ward, self._client, self._recording.record, self._worked)
        self._links = Links(settings.host, shell, ward, self._client, stood)
        self._registry = WatchedRegistry(HOME_OF_AGENTS, shell, ward, self._client, self._perform)
        self._hosts = [WatchedHost(host, shell, ward, self._client, self._perform, self._vitals) for host in hosts]
        self._rows: dict[str, Change] = {}
        self._asking: asyncio.Task[None] | None = None
        self._ticked_at = float("inf")
        shell.breakers = self._client.breakers
        self._add_routes()
        self._show_metrics()

    async def open(self) -> None:
        """Serve, and begin to watch; Conflict when a port is taken."""
        try:
            await self.shell.open(ready=False)
        except TandemError:
            await self._client.close()
            await self.shell.close(drain_s=0)
            raise
        await self._recording.open()
        shell = self.shell
        shell.set_ready()
        self._registry.begin()
        for host in self._hosts:
            host.begin()
        self._probing.tidy()
        shell.every(TICK_S, self._tick)
        shell.every(TIDY_S, self._tidy)
        shell.every(SCRAPE_TURN_S, self._scraping.turn)
        shell.spawn(self._recording.keep_writing(), "writing the history of metrics")
        shell.every(LINKS_S, self._ask_around)

    async def close(self) -> None:
        """Take no new work, keep what was taken, and stop."""
        await self.shell.drain()
        self._probing.close()
        await self._recording.close()
        self._keep()
        await self._client.close()
        await self.shell.close()

    def _add_routes(self) -> None:
        self.shell.handle(api.GET_HEALTH, self._get_health)
        self.shell.handle(api.GET_FIGURES, lambda asked, _: api.Figures(processes=self._scraping.figures(asked)))
        self._recording.add_routes()

    def _show_metrics(self) -> None:
        metrics, probing, recording = self.shell.metrics, self._probing, self._recording
        Exposition(self._ward, self._links.show).show(metrics)
        metrics.read_counter("tandem_hub_probes_total", "Probes that ended.", lambda: probing.done)
        metrics.read_gauge("tandem_hub_probes_in_flight", "Probes under way.", lambda: probing.under_way)
        metrics.read_counter("tandem_hub_scrapes_total", "Figures taken in.", lambda: self._scraping.done)
        metrics.read_counter("tandem_hub_doubts_total", "Times it doubted itself.", lambda: self._ward.doubt.times)
        metrics.read_gauge("tandem_hub_series", "Series of metrics in memory.", lambda: len(recording.table))
        metrics.read_counter("tandem_hub_points_total", "Points of metrics taken.", lambda: recording.table.taken)
        metrics.read_counter(
            "tandem_hub_points_dropped_total",
            "Points of metrics that were not taken, by reason.",
            lambda: {(why,): float(count) for why, count in list(recording.table.dropped.items())},
            labels=("reason",),
        )
        metrics.read_counter("tandem_hub_writes_failed_total", "Failed writes of history.", lambda: recording.failures)

    # what was seen and told

    def _probed(self, key: str, life: int, outcome: Outcome, at: float) -> None:
        now, wall = self._clock.monotonic(), self._clock.wall()
        self._perform(self._ward.probed(key, life, outcome, at, now, wall))

    def _late(self, by_s: float) -> None:
        self._ward.late(by_s, self._clock.monotonic())

    def _worked(self, key: str, problem: str) -> None:
        self._perform(self._ward.worked(key, problem, self._clock.monotonic(), self._clock.wall()))

    def _vitals(self, vitals: Vitals) -> None:
        self._perform(self._ward.vitals(vitals, self._clock.monotonic(), self._clock.wall()))
        for name, value in vitals_values(vitals).items():
            self._recording.record("supervisor", name, value, {"host": vitals.host}, "gauge")

    def _tick(self) -> None:
        now = self._clock.monotonic()
        self._late(now - self._ticked_at - TICK_S)
        self._ticked_at = now
        self._perform(self._ward.tick(now, self._clock.wall()))
        doubt = self._ward.doubt.now(now)
        if doubt:
            self.shell.problems[DOUBT] = f"verdicts are frozen: {doubt}"
        else:
            self.shell.problems.pop(DOUBT, None)
        self._keep()

    def _tidy(self) -> None:
        self._probing.tidy()
        self._perform(self._links.judge())
        gone = self._ward.gone(self._clock.monotonic())
        self._rows |= {key: HEALTH.delete(key) for key in gone}

    def _ask_around(self) -> None:
        """Asks about links, and ways across them; one that is still under way is not overtaken."""
        if self._asking is None or self._asking.done():
            self._asking = self.shell.spawn(self._ask(), "asking about links")

    async def _ask(self) -> None:
        await self._links.ask()
        self._perform(self._links.judge())
        await self._registry.find_ways()

    def _perform(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Look(key):
                    self._probing.look(key)
                case Changed(_, event):
                    self._tell(instruction)
                    if event.what == "host":
                        self._perform(self._links.judge())

    def _tell(self, changed: Changed) -> None:
        """A verdict is told at once, whatever the store does: it is an observation and no promise. Its row follows."""
        event = changed.event
        level = self.shell.log.warning if event.verdict in ("unhealthy", "unreachable") else self.shell.log.info
        level("%s is %s, was %s: %s", changed.key, event.verdict, event.was, event.reason)
        self._rows[changed.key] = HEALTH.put(changed.key, changed.stood)
        self.shell.publisher.publish(api.HEALTH_CHANGED, changed.key, event)

    def _keep(self) -> None:
        """Writes the rows of what changed; those that the store does not take wait for the next time."""
        if self._rows and self.shell.journal.able:
            rows, self._rows = self._rows, {}
            self.shell.journal.write(list(rows.values()))
            self.shell.journal.hold(lambda failure: self._put_back(rows) if failure is not None else None)

    def _put_back(self, rows: dict[str, Change]) -> None:
        self._rows = {**rows, **self._rows}

    # what is asked

    def _get_health(self, asked: api.GetHealth, _call: Call) -> api.FabricHealth:
        if asked.host and asked.host not in self._ward.hosts:
            raise NotFound(f"no host {asked.host!r}; there are {', '.join(self._ward.hosts)}")
        now = self._clock.monotonic()
        hosts = [host for host in self._ward.hosts.values() if asked.host in ("", host.name)]
        shown = [subject for subject in self._ward if asked.host in ("", subject.host)]
        return api.FabricHealth(
            hosts=[_host(host, now) for host in hosts],
            services=[_process(subject) for subject in shown if subject.what != "agent"],
            agents=[_process(subject) for subject in shown if subject.what == "agent"],
            links=[link for link in self._links.show() if asked.host in ("", link.host, link.peer)],
            as_of=self.shell.publisher.cursor(api.HEALTH_CHANGED.name),
            doubt=self._ward.doubt.now(now),
        )


def _process(subject: Subject) -> ProcessHealth:
    steady = subject.steady
    return ProcessHealth(
        name=subject.name,
        host=subject.host,
        what=subject.what,
        verdict=steady.opinion.verdict,
        reason=steady.opinion.reason,
        because=steady.opinion.because,
        since=timestamp(steady.since_wall),
        latency_ms=subject.evidence.latency_s * 1000,
        probed=subject.way is not None,
        phase=subject.told.phase if subject.told is not None else "",
        restarts=subject.told.restarts if subject.told is not None else 0,
    )


def _host(host: Host, now: float) -> HostHealth:
    steady = host.steady
    return HostHealth(
        host=host.name,
        verdict=steady.opinion.verdict,
        reason=steady.opinion.reason,
        since=timestamp(steady.since_wall),
        latency_ms=host.supervisor.evidence.latency_s * 1000,
        vitals=host.vitals,
        vitals_age_s=max(0.0, now - host.vitals_at) if host.vitals is not None else 0.0,
    )


def _is_near(directory: Directory, host: str) -> bool:
    """Whether a host is on this machine: its supervisor is on loopback."""
    place = directory.place(f"{SUPERVISOR}{host}")
    return place is not None and place.requests.address.startswith((f"tcp://{LOOPBACK}:", "tcp://localhost:"))


def main() -> int:
    """The process; its exit status."""
    environment = AgentEnvironment.read()
    folder = environment.home / (environment.host or HOST)
    return run_service(
        OBSERVABILITY_HUB,
        HOST,
        STORE,
        lambda settings, directory, store: ObservabilityHub(settings, directory, store, folder),
    )
